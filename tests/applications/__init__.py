"""Applications that others wrote, with uwsgi_waffle put into them; none of their code is here."""
