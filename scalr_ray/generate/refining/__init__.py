"""Refining: what can only be decided once a batch has been drawn.

```
drawn         drawn rows, as a table or as files
align         buckets of items that have more than their share are thinned; caps of rows per item
contrast      a keyed sample of real and of synthetic events, with features of both
discriminate  can they be told apart, by what, and how much likelier to be real is an event
separation    areas under curves, and stability of distributions
weigh         the weight of an event, composed of its factors
refine        all of it, fitted to the whole batch
refinement    what was fitted, applied to each row by itself
report        what was found
```
"""
