"""Problems from files (being written)."""


class Files:
    name = "files"
