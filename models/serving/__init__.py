"""`autotx serve`: a model behind HTTP on this machine. transport.py limits and checks requests, requests.py reads them
as OpenAI's API has them, writer.py generates, one text at a time, and server.py joins the three. inside.py answers what
the page at / asks for."""
