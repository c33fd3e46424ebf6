// ---- Switches.
const TOKEN = "seawall-admin-token";
let asksToken = false;
const post = async path => {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { "x-seawall-switch": "yes", ...(asksToken && token ? { authorization: "Bearer " + token } : {}) };
  const answer = await fetch(path, { method: "POST", headers });
  if (!answer.ok) {
    if (answer.status === 401) sessionStorage.removeItem(TOKEN);
    throw new Error((await answer.text()).trim() || "answer " + answer.status);
  }
};
const dialog = $("#switch"), tokenInput = dialog.querySelector("input");
let wanted = null;
const ask = request => {
  wanted = request;
  $("#switch-title").textContent = request.title;
  $("#switch-text").textContent = request.text;
  $("#switch-failed").hidden = true;
  showToken();
  dialog.showModal();
};
const showToken = () => {
  const missing = asksToken && !sessionStorage.getItem(TOKEN);
  $("#switch-token").hidden = !missing;
  tokenInput.required = missing;
  tokenInput.value = "";
};
dialog.querySelector("form").addEventListener("submit", async event => {
  if (event.submitter?.value === "cancel") return;
  event.preventDefault();
  if (!$("#switch-token").hidden) sessionStorage.setItem(TOKEN, tokenInput.value.trim());
  try {
    await post(wanted.path);
    dialog.close();
  } catch (error) {
    $("#switch-failed").textContent = "✗ Not switched: " + error.message;
    $("#switch-failed").hidden = false;
    showToken();
  }
});
dialog.addEventListener("close", () => { wanted?.place.focus(); wanted = null; });

/** A cell in which one of `modes` is chosen; `state` is what is in effect. */
const switcher = (label, modes, state, byHand, request) => ({ ...text("", ""), switch: td => {
  let select = td.firstChild;
  if (!select) {
    select = td.appendChild(make("select", { ariaLabel: label }, ...modes.map(mode => make("option", { value: mode, textContent: mode }))));
    select.addEventListener("change", () => {
      const mode = select.value;
      select.value = select.dataset.state;
      ask({ ...request(mode), place: select });
    });
  }
  select.classList.toggle("by-hand", byHand);
  // Only then, or it would change under the hand of whoever chooses just now.
  if (select.dataset.state !== state) select.value = select.dataset.state = state;
} });
const MODES = ["off", "observe", "enforce", "configured"];
const protectionSwitch = ({ protection, mode, switched }) =>
  switcher("Mode of " + protection, MODES, mode, switched, wanted => ({
    path: "/protection/" + encodeURIComponent(protection) + "?mode=" + wanted,
    title: wanted === "configured" ? "Back to the configured mode of " + protection + "?" : "Switch " + protection + " to " + wanted + "?",
    text: wanted === "configured" ? "It does again what the configuration says." :
      "It takes effect for the next call and holds until it is switched back or Seawall is restarted.",
  }));
const collectionSwitch = (cluster, { collection, why }) => {
  const off = why === "switched off by hand";
  return switcher("Use of " + collection, ["on", "off"], off ? "off" : "on", off, wanted => ({
    path: "/mirror/" + encodeURIComponent(cluster) + "?collection=" + encodeURIComponent(collection) + "&mode=" + wanted,
    title: "Switch " + collection + " " + wanted + "?",
    text: wanted === "off" ? "It is dropped from memory, and reads of it go to etcd." : "It is loaded again when it is read.",
  }));
};
