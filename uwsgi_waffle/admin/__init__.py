"""Pages and JSON to see and change settings; :meth:`WaffleConf.admin` makes them a blueprint."""
