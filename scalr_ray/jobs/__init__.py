"""Jobs: each stage as one function over a workspace, and the SDK that calls them.

```
sdk.py        Scalr: one method per verb of the command line
workspace.py  a feature repository opened: configuration, layout, Feast, ledger, lake
ingest.py     event log -> event views, feature snapshots, registry
train.py      events as of T -> a translator, its strength, its trial
fitting.py    the translator of the configured kind; counting.py and tune.py serve it
generate.py   translator -> staged batch
drawing.py    the configuration in the terms of generation; the trial and the placebo draw here
vanished.py   is the translator of these events, and are its items still there?
surroundings.py  what Feast says of the items and users that are drawn for
release.py    staged batch -> audited -> published, and what it replaces retired
increment.py  the scheduled run: what is new since the published batches, and nothing twice
backfill.py   the same at rolling origins in the past
news.py       which events appeared after the published batches had looked
trial.py      would a downstream model gain by such events? asked on the validation window
weight_rule.py  which weight of the events the window speaks for
arms.py       the same model trained on several sets, measured on the same users
evaluate.py   the answer on outcomes after T, and the report (evaluation_result.py: what it says;
              example_users.py: what was drawn for some users, beside what they did;
              origins.py: several batches, each up to the next, and what all of them say)
demo.py       all of it, from an event log or a simulated world
status.py     how the repository stands, and what to do next
metrics.py    what Prometheus is told; measuring.py records it where Ray is up
open_lineage.py  what OpenLineage is told, where it is configured
doctor.py     is this machine and this repository fit to run?
options.py    what the stages are told on a command line, here or as a job
calls.py      how such a call ends: exit codes, one line for an error
entry.py      a stage as a process of its own: `python -m scalr_ray.jobs.train`; run.py is one
submission.py  such a process as a job of a Ray cluster: handed in, followed, stopped
```
"""
