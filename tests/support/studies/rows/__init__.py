"""All that a new classification study is: which row of an image is bright, 4 rows in task A, 6 in task B."""
