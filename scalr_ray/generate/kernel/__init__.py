"""The kernel: one block of planned users in, their candidates out.

```
block         the users, and what may be proposed to them
proposals     whom to draw what: shortlist, sampling, the user's own items left out
sampling      without replacement, keyed by user and item
event_times   which source event triggered a draw, and when it happens
negatives     items that were not chosen, drawn from the prior
draw          all of it, and the columns of an event
```

A user's rows follow from that user alone, whoever else is in the block.
"""
