"""Reading and writing video: files, folders of images, live sources."""
