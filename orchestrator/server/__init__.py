"""`sweep serve`: sweep directories over HTTP. Every answer is read from them; nothing is kept."""
