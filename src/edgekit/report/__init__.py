"""A run as one self-contained HTML page: facts are read, numbers chosen, tables and charts drawn, a template filled."""
