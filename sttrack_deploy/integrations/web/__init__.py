"""The tracker as a folder of static files that any web server can hold."""
