// Keeps an open page true: what the server sends takes the place of what is shown. Without this file the
// pages are the same, as they were when they were loaded.

const main = document.querySelector("main");
const skew = main.dataset.now ? Date.parse(main.dataset.now) - Date.now() : 0;
const SHOWN = 1_000_000; // characters of one log that are kept on the page
const AGAIN = 3000; // milliseconds before the next try where the browser has given up

function listen(after) {
  const url = new URL(main.dataset.events, location);
  if (after) url.searchParams.set("after", after);
  const source = new EventSource(url);
  source.onopen = () => link("live");
  source.onerror = () => {
    link("connection lost, trying again");
    if (source.readyState === EventSource.CLOSED) setTimeout(comeBack, AGAIN, after);
  };
  const on = (kind, act) =>
    source.addEventListener(kind, (event) => {
      after = event.lastEventId;
      act(JSON.parse(event.data));
    });
  on("page", showPage);
  on("log", showOutput);
  on("end", () => {
    source.close();
    link("");
  });
}

// A page that leads elsewhere now is one whose session has ended.
async function comeBack(after) {
  const page = await fetch(location, { redirect: "manual" }).catch(() => null);
  if (page?.type === "opaqueredirect") location.reload();
  else listen(after);
}

function link(text) {
  document.getElementById("link").textContent = text;
}

let held = null; // news that waits for a button to be let go: it must not move away under the finger

function showPage(news) {
  const page = document.getElementById("page");
  if (page.matches(":active")) {
    held = news;
    return;
  }
  held = null;
  const { title, html, says } = news;
  const focused = page.contains(document.activeElement) && place(document.activeElement);
  page.innerHTML = html;
  if (focused) page.querySelector(focused)?.focus({ preventScroll: true });
  document.title = title;
  const told = document.getElementById("says");
  if (told.textContent !== says) told.textContent = says;
}

function place(element) {
  if (element.form) return `form[action="${CSS.escape(element.form.getAttribute("action"))}"] button`;
  return element.hasAttribute("href") && `[href="${CSS.escape(element.getAttribute("href"))}"]`;
}

function letGo() {
  if (held) showPage(held);
}

function showOutput({ stage, html, text }) {
  const section = document.getElementById(`log-${stage}`);
  if (html === undefined) return append(section, text);
  if (section) section.outerHTML = html;
  else document.getElementById("logs").insertAdjacentHTML("beforeend", html);
  const pre = document.querySelector(`#log-${stage} pre`);
  pre.scrollTop = pre.scrollHeight;
}

function append(section, text) {
  const pre = section.querySelector("pre");
  const atEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
  pre.append(text);
  while (pre.textContent.length > SHOWN && pre.childNodes.length > 1) {
    pre.firstChild.remove();
    section.querySelector(".earlier").hidden = false;
  }
  if (atEnd) pre.scrollTop = pre.scrollHeight;
}

// Times age on their own; pages.py says the same.

function ago(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return "just now";
}

function elapsed(seconds) {
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (seconds < 60) return `${Math.floor(seconds)}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h ${two((seconds / 60) % 60)}m`;
}

function age() {
  for (const time of document.querySelectorAll("time[data-say]")) {
    const seconds = Math.max(0, (Date.now() + skew - Date.parse(time.dateTime)) / 1000);
    const text = (time.dataset.say === "ago" ? ago : elapsed)(seconds);
    if (time.textContent !== text) time.textContent = text;
  }
}

for (const pre of document.querySelectorAll(".log pre")) pre.scrollTop = pre.scrollHeight;
setInterval(age, 1000);
for (const end of ["pointerup", "pointercancel", "keyup"]) addEventListener(end, () => setTimeout(letGo));
if (main.dataset.events) listen();
