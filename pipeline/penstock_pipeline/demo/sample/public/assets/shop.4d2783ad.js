// Asks the web service which version answers, to show static and dynamic side by side.
const place = document.querySelector("#version");
if (place) {
  const answer = await fetch("/api/version");
  place.textContent = (await answer.json()).version;
}
