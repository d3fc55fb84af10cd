"""Scripts for an Alembic of the application's own: ``version_locations`` takes this folder.

``flask waffle init-db`` does not need them. A script is never changed once its release is out.
"""
