"""Pages over the ledger, to be looked through in a browser: `scalr ui`.

```
serving.py     the port, and the server on it
app.py         which page answers which path, and how errors are told
guard.py       whom the server answers: methods, names in `Host`, headers of every answer
lists.py       lists in parts
rendering.py   texts, times and figures as markup; everything is escaped
pages/         the pages and their one style
```

The pages change nothing, need no JavaScript, load nothing from elsewhere and set no cookie. Each
request opens the ledger anew, read-only, so that a ledger which comes, goes or is migrated needs no
restart. There is no authentication: the server listens on loopback unless told otherwise.
"""

from __future__ import annotations
