# Sourced by the scripts beside it: where the tools go, and how they get there without root.

set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=${SEAWALL_TOOLS_DIR:-$repo/target/tools}

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
# skipped WHAT: says it now, and again at the end of `make test`.
skipped() {
  say "SKIPPED: $*"
  if [ -n "${SEAWALL_SKIPPED:-}" ]; then printf '%s\n' "$*" >>"$SEAWALL_SKIPPED"; fi
}
# The guides and their pictures, by their paths in the repository.
guides() { (cd "$repo" && find docs -type f \( -name '*.md' -o -name '*.png' \) | sort); }
have() { command -v "$1" >/dev/null 2>&1; }

# A half-built tool must never be found by its final path, so everything is built in a staging
# directory on the same file system and renamed when it is whole.
new_staging() {
  mkdir -p "$tools"
  staging=$(mktemp -d "$tools/.staging.XXXXXX")
  trap 'chmod -R u+w "$staging" && rm -rf "$staging"' EXIT
}

# publish FROM TO: of two runs at the same time the first one wins.
publish() {
  mkdir -p "$(dirname "$2")"
  mv -T "$1" "$2" 2>/dev/null || [ -e "$2" ] || fail "cannot move $1 to $2"
}

# The system's package lists serve when they are there. Otherwise apt fetches its own below the
# tools directory, which needs no root.
apt_options=()
# Another architecture whose packages are wanted, too.
apt_foreign=

apt_private() {
  local state=$tools/.apt${apt_foreign:+-$apt_foreign}
  mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial"
  apt_options=(-o "Dir::State=$state/state" -o "Dir::Cache=$state/cache"
    -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User="$(id -un)")
  if [ -n "$apt_foreign" ]; then
    apt_options+=(-o "APT::Architectures::=$(dpkg --print-architecture)" -o "APT::Architectures::=$apt_foreign")
  fi
  # One source that cannot be reached fails the update as a whole; what counts is whether the
  # package is known afterwards.
  if [ -z "$(find "$state/updated" -mtime -1 2>/dev/null)" ]; then
    say "fetching package lists to $state"
    apt-get "${apt_options[@]}" -q update >"$state/update.log" 2>&1 || true
    touch "$state/updated"
  fi
}

# apt_version PACKAGE: the version apt would install, or nothing.
apt_version() {
  have apt-cache && have apt-get && have dpkg-deb || return 0
  local version
  version=$(apt_candidate "$1")
  if [ -z "$version" ] && [ ${#apt_options[@]} -eq 0 ]; then
    apt_private
    version=$(apt_candidate "$1")
  fi
  printf '%s' "$version"
}

apt_candidate() {
  apt-cache "${apt_options[@]}" policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

# apt_unpack DIRECTORY PACKAGE...: download and unpack, nothing is installed.
apt_unpack() {
  local into=$1 deb
  shift
  mkdir -p "$into" "$staging/debs"
  if ! (cd "$staging/debs" && apt-get "${apt_options[@]}" -q download "$@" >"$staging/apt.log" 2>&1); then
    # Lists that have aged name files the archive no longer has.
    apt_private
    (cd "$staging/debs" && apt-get "${apt_options[@]}" -q download "$@" >"$staging/apt.log" 2>&1) ||
      fail "apt cannot download $*: $(grep -E '^(E|W):' "$staging/apt.log" | head -n 3)"
  fi
  for deb in "$staging"/debs/*.deb; do dpkg-deb -x "$deb" "$into"; done
  rm -rf "$staging/debs"
}
