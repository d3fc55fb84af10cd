"""Scripts for an Alembic of the application's own: ``version_locations`` takes this folder.

They run the steps that ``flask waffle init-db`` runs, see :mod:`uwsgi_waffle.sql.tables`.
"""
