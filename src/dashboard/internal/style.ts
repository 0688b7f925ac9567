/** How the page looks: light and dark, wide and narrow. Colour never says anything that no word says too. */
export const style = `
:root {
  color-scheme: light dark;
  --ground: #f3f5f7; --card: #ffffff; --ink: #14181d; --dim: #5a636e; --line: #e2e6ea; --soft: #eef1f4;
  --good: #15703f; --good-soft: #e0f3e8; --fair: #8a5a00; --fair-soft: #fdf0d2; --bad: #bf1d1a; --bad-soft: #fde4e2;
  --mark: #2f5fd0; --mark-soft: #d5e0f9; --bars: #a9bce6;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0e1115; --card: #161a20; --ink: #e8ebef; --dim: #98a2ae; --line: #262c34; --soft: #1d222a;
    --good: #56c991; --good-soft: #12301f; --fair: #e5b853; --fair-soft: #33280f; --bad: #ff7a70; --bad-soft: #3c1715;
    --mark: #82a8ff; --mark-soft: #1d2b4a; --bars: #45598a;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; padding: 0 16px 16px; background: var(--ground); color: var(--ink);
  font: 13px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums;
}
h1, h2, h3, p, ol, dl, dd, figure { margin: 0; padding: 0; }
h1 { font-size: 16px; letter-spacing: -0.01em; }
h2 { font-size: 15px; letter-spacing: -0.01em; }
ol { list-style: none; }
.dim { color: var(--dim); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.empty { padding: 32px 0; color: var(--dim); }

.bar { display: flex; align-items: center; gap: 12px; padding: 10px 0; }
.bar #uptime { margin-left: auto; }
.pill, .badge {
  display: inline-flex; align-items: center; gap: 5px; border-radius: 99px; padding: 0 9px 0 7px; height: 20px;
  font-size: 12px; font-weight: 600; white-space: nowrap; vertical-align: top;
}
.badge { height: 18px; font-size: 11.5px; }
.pill::before, .badge::before { content: ""; width: 8px; height: 8px; border-radius: 50%; background: currentColor; }
.badge[data-tone="bad"]::before { border-radius: 1px; }
.badge[data-tone="fair"]::before { background: linear-gradient(90deg, currentColor 50%, transparent 50%); box-shadow: inset 0 0 0 1.5px currentColor; }
.badge[data-tone="plain"] { color: var(--dim); font-weight: 400; padding-left: 0; }
.badge[data-tone="plain"]::before { display: none; }
[data-tone="good"].pill, [data-tone="good"].badge { background: var(--good-soft); color: var(--good); }
[data-tone="fair"].pill, [data-tone="fair"].badge { background: var(--fair-soft); color: var(--fair); }
[data-tone="bad"].pill, [data-tone="bad"].badge { background: var(--bad-soft); color: var(--bad); }

#trouble { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 6px; }
#trouble:not(:empty) { padding-bottom: 10px; }
#trouble a {
  display: block; border-radius: 6px; padding: 3px 9px; font-weight: 600; font-size: 12.5px; text-decoration: none;
  overflow-wrap: anywhere;
}
#trouble a[data-tone="bad"] { background: var(--bad-soft); color: var(--bad); }
#trouble a[data-tone="fair"] { background: var(--fair-soft); color: var(--fair); }
#trouble a:hover { text-decoration: underline; }
body[data-stale] #trouble { opacity: 0.45; }
:target { scroll-margin-top: 12px; }
tr:target td { background: var(--soft); }
.part:target { outline: 2px solid var(--mark); }

#parts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 12px; align-items: start; }
body[data-stale] #parts { opacity: 0.45; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; min-width: 0; }
.part { container-type: inline-size; }
.part > header { display: flex; align-items: baseline; gap: 8px; margin-bottom: 4px; }
.part > header .dim { font-size: 12px; }

.now { display: grid; grid-template-columns: 1.5fr repeat(5, 1fr); gap: 2px 10px; }
.now div { display: flex; flex-direction: column-reverse; min-width: 0; }
.now dt { color: var(--dim); font-size: 11px; white-space: nowrap; }
.now dd { font-size: 17px; font-weight: 600; letter-spacing: -0.02em; white-space: nowrap; line-height: 1.25; }
.now div:first-child dd { font-size: 24px; line-height: 1.1; }
dd[data-tone="good"], td[data-tone="good"] { color: var(--good); }
dd[data-tone="fair"], td[data-tone="fair"] { color: var(--fair); }
dd[data-tone="bad"], td[data-tone="bad"] { color: var(--bad); font-weight: 600; }

.chart { margin: 8px 0 2px; }
.chart svg { display: block; width: 100%; height: 40px; background: linear-gradient(var(--line), var(--line)) bottom / 100% 1px no-repeat; }
.chart figcaption { display: flex; gap: 12px; flex-wrap: wrap; color: var(--dim); font-size: 11px; padding-top: 2px; }
.chart i { display: inline-block; width: 8px; height: 8px; border-radius: 2px; margin-right: 4px; background: var(--bars); }
.chart i.failed { background: var(--bad); }
.bars { fill: var(--bars); }
.bars-failed { fill: var(--bad); }

.tables { display: grid; gap: 0 24px; }
@container (min-width: 1000px) { .tables { grid-template-columns: 1fr 1fr; } }
table { width: 100%; border-collapse: collapse; margin-top: 6px; align-self: start; }
th { font-size: 11px; font-weight: 400; color: var(--dim); text-align: right; padding: 2px 0 2px 8px; white-space: nowrap; }
td { text-align: right; padding: 3px 0 3px 8px; white-space: nowrap; border-top: 1px solid var(--line); vertical-align: top; line-height: 18px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; width: 99%; max-width: 0; }
td .name { display: flex; font-weight: 600; }
.head { overflow: hidden; text-overflow: ellipsis; white-space: pre; }
.tail { flex: none; white-space: pre; }
.more {
  margin: 4px 0 0; padding: 3px 8px; border: 1px solid var(--line); border-radius: 6px; background: none;
  font: inherit; font-size: 12px; color: var(--dim); cursor: pointer;
}
.more:hover { color: var(--ink); }
td .address { font-family: var(--mono); font-size: 12px; font-weight: 400; }
td .sub {
  display: block; width: max-content; max-width: 420px; overflow: hidden; text-overflow: ellipsis;
  color: var(--dim); font-size: 11.5px; line-height: 15px;
}
tr[data-state="Open"] .sub, tr[data-state="ForcedOpen"] .sub { color: var(--bad); }
tr[data-state="HalfOpen"] .sub, tr[data-state="Recovering"] .sub { color: var(--fair); }
td .sub:empty { display: none; }
td.state, th.state { text-align: left; }
td.state { min-width: 92px; }
td.line { width: 96px; padding-left: 10px; }
td.line svg { display: block; width: 84px; height: 20px; margin-left: auto; overflow: visible; }
.band { fill: var(--mark-soft); }
.p99 { fill: none; stroke: var(--mark); stroke-width: 1.5; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
.ticks { fill: var(--bad); }

.budgets { list-style: none; padding: 0; margin-bottom: 0; display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 6px; padding-top: 8px; border-top: 1px solid var(--line); font-size: 12px; }
.budgets:empty { display: none; }
.budgets li { display: flex; align-items: center; gap: 8px; }
.budgets meter { width: 72px; height: 10px; }
details { margin-top: 8px; font-size: 12px; }
summary { cursor: pointer; color: var(--dim); }
.policies li { display: flex; flex-wrap: wrap; gap: 0 10px; padding: 3px 0; border-top: 1px solid var(--line); }
.policies b { font-weight: 600; }
.policies .figures { color: var(--dim); font-family: var(--mono); font-size: 11.5px; overflow-wrap: anywhere; }

.ticker { margin-top: 12px; }
.ticker header { display: flex; align-items: baseline; flex-wrap: wrap; gap: 2px 16px; }
.ticker label { color: var(--dim); font-size: 12px; display: inline-flex; gap: 6px; align-items: center; margin-left: auto; }
#events { margin-top: 4px; max-height: 232px; overflow-y: auto; }
#events li { display: grid; grid-template-columns: 76px 76px minmax(0, 15em) minmax(0, 1fr) auto; gap: 10px; padding: 2px 0; border-top: 1px solid var(--line); align-items: baseline; }
#events li:first-child { border-top: 0; }
#events li.dim { display: block; }
#events .when { color: var(--dim); font-size: 12px; }
#events .who { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: 12px; color: var(--dim); }
#events .about { display: flex; overflow: hidden; font-family: var(--mono); font-size: 12px; }
#events .text { overflow-wrap: anywhere; }
#events li[data-tone="good"] .text { color: var(--good); }
#events li[data-tone="fair"] .text { color: var(--fair); }
#events li[data-tone="bad"] .text { color: var(--bad); }
#events .times { color: var(--dim); font-size: 12px; }
#events.major .minor { display: none; }
#failed { font-size: 13px; }
#calls li { border-top: 1px solid var(--line); padding: 2px 0; }
#calls li:first-child { border-top: 0; }
#calls details { margin: 0; font-size: inherit; }
#calls summary { color: var(--bad); overflow-wrap: anywhere; }
#calls .when { display: inline-block; min-width: 72px; color: var(--dim); font-size: 12px; }
#calls pre { margin: 4px 0 6px; font: 12px/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; }
a { color: var(--mark); }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }

@media (max-width: 620px) {
  body { padding: 0 10px 10px; }
  .card { padding: 10px 12px; }
  .now { grid-template-columns: repeat(3, 1fr); gap: 6px 10px; }
  thead { display: none; }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 0 8px; padding: 6px 0; border-top: 1px solid var(--line); }
  td, td:first-child { display: block; border: 0; padding: 0; height: auto; width: auto; max-width: none; text-align: left; }
  td:first-child { grid-column: 1 / 4; }
  td .sub { width: auto; max-width: none; white-space: normal; }
  td.state { grid-column: 4 / 6; grid-row: 1; text-align: right; min-width: 0; }
  td.line { grid-column: 4 / 6; grid-row: 1; width: auto; }
  tr.endpoint td:first-child { grid-column: 1 / 4; }
  tr.endpoint td.line { grid-column: 1 / 6; grid-row: 3; }
  tr.endpoint td.line svg { width: 100%; }
  td[data-label]::before { content: attr(data-label); display: block; font-size: 10.5px; color: var(--dim); font-weight: 400; }
  #events li { grid-template-columns: 58px minmax(0, 1fr) auto; gap: 0 8px; }
  #events .who, #events .about { grid-row: 1; }
  #events .who { grid-column: 3; }
  #events .about { grid-column: 2; }
  #events .text { grid-column: 2; }
}
@media (prefers-reduced-motion: no-preference) {
  #parts { transition: opacity 0.3s; }
  #events li.new { animation: arrive 1.2s ease-out; }
  @keyframes arrive { from { background: var(--mark-soft); } }
}
`
