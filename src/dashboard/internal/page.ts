/** The page without anything on it: its script fills it in. */
export const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>holdfast</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="holdfast/dashboard.css">
<script src="holdfast/dashboard.js" defer></script>
</head>
<body>
<header class="bar">
<h1>holdfast</h1>
<p id="status" class="pill" role="status" data-tone="fair">connecting</p>
<p id="uptime" class="dim"></p>
</header>
<nav aria-label="in trouble"><ul id="trouble"></ul></nav>
<noscript><p class="empty">This page shows live figures and needs JavaScript. The same as JSON:
<a href="holdfast/snapshot">/holdfast/snapshot</a></p></noscript>
<main id="parts"><p id="empty" class="empty" hidden>Nothing is observed yet: provide <code>Observe.layer(Snapshot.make())</code> to what makes clients.</p></main>
<section class="card ticker" aria-labelledby="events-title">
<header><h2 id="events-title">Events</h2>
<label><input type="checkbox" id="minor"> attempts, retries and sessions too</label></header>
<ol id="events" tabindex="0" aria-labelledby="events-title"><li id="quiet" class="dim">nothing has happened yet</li></ol>
</section>
<section class="card ticker" id="failed" aria-labelledby="failed-title" hidden>
<header><h2 id="failed-title">Failed calls</h2><span class="dim">the last, and what was decided on their way</span></header>
<ol id="calls"></ol>
</section>
<p id="announcer" class="unseen" aria-live="polite"></p>
</body>
</html>
`
