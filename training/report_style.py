"""The style of the report: system fonts, light and dark by preference, plain on paper."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --panel: #f6f8fa;
  --good: #1a7f37; --bad: #b42318; --calm: #57606a; --open: #9a6700;
  --series-1: #0b5cad; --series-2: #c2570c; --series-3: #0f7b5f;
  --series-4: #8250df; --series-5: #a8325e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0f1318; --ink: #e6e9ed; --soft: #9aa4af; --line: #343b44; --panel: #181e25;
    --good: #4ac26b; --bad: #ff8a80; --calm: #9aa4af; --open: #e3b341;
    --series-1: #6cb6ff; --series-2: #ffa657; --series-3: #56d4ad;
    --series-4: #c297ff; --series-5: #ff8fb1;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; text-wrap: balance; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p { margin: .5rem 0; }
.eyebrow { margin: 0 0 .25rem; color: var(--soft); font-size: .875rem; }
.verdict {
  padding: 1.25rem 1.5rem; background: var(--panel); border-radius: .5rem;
  border-inline-start: .4rem solid var(--tone);
}
.verdict h1 { color: var(--tone); }
.helps { --tone: var(--good); }
.harms { --tone: var(--bad); }
.no_effect { --tone: var(--calm); }
.cannot_tell { --tone: var(--open); }
.missing { color: var(--soft); }
figure { margin: 0 0 1rem; }
figcaption, caption { color: var(--soft); font-size: .875rem; text-align: start; }
caption { padding-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 1.5rem; }
.scroll { overflow-x: auto; margin-bottom: 1.25rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: end; }
th { font-weight: 400; }
thead th { font-weight: 600; white-space: nowrap; }
th:first-child, .words { text-align: start; }
tbody th { white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
#gate th:last-child { text-align: start; }
.number, .up, .down { white-space: nowrap; }
.group { padding-top: .9rem; font-weight: 600; }
.up { color: var(--good); font-weight: 600; }
.down { color: var(--bad); font-weight: 600; }
pre {
  padding: .75rem 1rem; background: var(--panel); border-radius: .4rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
code { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media print {
  :root { --paper: #ffffff; --panel: #ffffff; --ink: #000000; --soft: #333333; --line: #999999; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, tbody, .verdict { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
