// Takes the invitation off the address, where it is in no log, no history and no Referer, and uses it.

const form = document.getElementById("sign-in");

function accept() {
  const invitation = location.hash.slice(1);
  if (!invitation) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.token.value = invitation;
  form.requestSubmit();
}

addEventListener("hashchange", accept);
accept();
