"""The HTML page: charts, previews and the text around them. No torch here."""
