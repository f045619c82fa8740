"""The data's way: environments, rows, writer, dataset."""
