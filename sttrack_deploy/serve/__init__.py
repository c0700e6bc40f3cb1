"""Tracking as a service: a page to draw boxes on, and the same over HTTP (extra ``serve``)."""
