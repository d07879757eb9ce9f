"""How a report looks: readable on a phone, by day and by night, and on paper. No file, font or script is fetched."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1b1b;--soft:#5c5c5c;--rule:#d9d9d9;--panel:#f5f5f5;
--model:#0072b2;--baseline:#b36b00;--ceiling:#767676;--warn:#a33a00;--warn-page:#fff1e6}
@media (prefers-color-scheme:dark){:root{--page:#16181b;--text:#ececec;--soft:#a9adb3;--rule:#3a3e44;--panel:#202327;
--model:#56b4e9;--baseline:#e69f00;--ceiling:#a0a0a0;--warn:#ffb38a;--warn-page:#3a2417}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem;max-width:60rem;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.2rem;line-height:1.25;margin:2.2rem 0 .6rem;padding-top:.6rem;border-top:1px solid var(--rule)}
p{margin:.5rem 0}
.soft,caption,figcaption span,small{color:var(--soft)}
.verdict{background:var(--panel);border-left:4px solid var(--model);padding:.6rem .9rem;margin:1rem 0}
.verdict p:first-child{font-size:1.15rem}
.leak{background:var(--warn-page);border-left:4px solid var(--warn);padding:.6rem .9rem;margin:1rem 0}
.leak strong{color:var(--warn)}
dl{display:grid;grid-template-columns:minmax(5.5rem,8.5rem) 1fr;gap:.25rem .9rem;margin:.6rem 0}
dt{color:var(--soft)}dd{margin:0}
details dl{font-size:.9rem}@media(max-width:32rem){details dl{display:block}details dd{margin-bottom:.5rem}}
summary{cursor:pointer;color:var(--soft)}
.scroll{overflow-x:auto;max-width:100%;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
caption{text-align:left;padding:.2rem 0;position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--rule);vertical-align:top;white-space:nowrap}
thead th{white-space:normal;min-width:5.5rem;vertical-align:bottom;font-weight:600}
th:first-child{text-align:left;position:sticky;left:0;background:var(--page);font-weight:600;min-width:6.5rem;
max-width:11rem;white-space:normal;overflow-wrap:break-word}
td.long{text-align:left;white-space:normal;min-width:14rem}
small{display:block;font-size:.75rem}
table.genes th,table.genes td{padding:.2rem .35rem;border:1px solid var(--page);text-align:center}
table.genes th:first-child{text-align:left;min-width:4.5rem}
table.genes thead th{min-width:0;height:8.5rem}
table.genes thead th:not(:first-child) span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:8rem;
overflow:hidden;white-space:nowrap;text-align:left}
svg{display:block;height:auto;max-width:100%}
svg.chart{max-width:34rem;margin:.6rem 0}
svg text{font-size:12px;fill:var(--text);paint-order:stroke;stroke:var(--page);stroke-width:3px;stroke-linejoin:round}
svg .value{text-anchor:end;fill:var(--soft);font-size:11px}
svg .tick{text-anchor:middle;fill:var(--soft);font-size:11px}
svg .mark{fill:var(--soft);font-size:10px}
svg .grid{stroke:var(--rule);stroke-width:.5;fill:none}
svg .zero{stroke:var(--soft);stroke-width:1;fill:none}
svg .line{stroke-width:1.2;stroke-dasharray:4 3;fill:none}
svg .whisker{stroke-width:1.6;fill:none}
svg .genes{stroke-width:2.4;stroke-linecap:round;stroke-opacity:.5;fill:none}
svg .mean{stroke-width:2.4;fill:none}
svg .model{stroke:var(--model)}svg .baseline{stroke:var(--baseline)}svg .ceiling{stroke:var(--ceiling)}
svg .point.model,svg .box.model{fill:var(--model)}
svg .point.baseline,svg .box.baseline{fill:var(--baseline)}svg .box.ceiling{fill:var(--ceiling)}
svg .box{fill-opacity:.22;stroke:none}
svg .dots{fill:none;stroke-linecap:round}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(10rem,45%),1fr));gap:.9rem;margin:.8rem 0}
figure{margin:0}figcaption{font-size:.85rem;line-height:1.3}figcaption b{font-weight:600}figcaption span{display:block}
.length{display:block;border-top:3px solid var(--text);margin-top:.3rem}
.bar{display:flex;align-items:center;gap:.5rem;font-size:.85rem;flex-wrap:wrap}
.bar i{flex:0 1 10rem;height:.8rem;min-width:5rem}
pre{white-space:pre-wrap;background:var(--panel);padding:.7rem;font-size:.8rem}
footer{margin-top:2.5rem;border-top:1px solid var(--rule);font-size:.85rem;color:var(--soft)}
@media print{:root{--page:#fff;--text:#000;--soft:#444;--rule:#bbb;--panel:#f5f5f5;--model:#0072b2;--baseline:#b36b00;
--ceiling:#767676;--warn:#a33a00;--warn-page:#fff1e6}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}body{max-width:none;padding:0;font-size:11px}
.scroll{overflow:visible}table{font-size:8px}th,td{padding:.15rem .3rem}thead th{min-width:0}
th:first-child{position:static}figure,svg,tr,.verdict,.leak{break-inside:avoid}h2{break-after:avoid}}
"""
