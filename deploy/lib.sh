# Shared by the scripts of this folder: say what happens, install what is missing. Sourced, not run.

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)
step_number=0
steps_total=${steps_total:-0}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kith

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

# step TEXT: the next step of the script, numbered.
step() {
  step_number=$((step_number + 1))
  printf '%s[%d/%d] %s%s\n' "$bold" "$step_number" "$steps_total" "$1" "$plain"
}

say() { printf '      %s\n' "$*"; }

die() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# logged NAME COMMAND...: runs with its output in a log; on a terminal a line shows seconds and the log's last words. Then how long it
# took, or the end of the log when it failed.
logged() {
  local name=$1 log=$root/build/$1.log start=$SECONDS ticker='' status
  shift
  mkdir -p "$root/build"
  : >"$log"
  if [ -t 1 ]; then
    # In the background, so that Ctrl-C reaches the command itself; it ends with the script.
    while kill -0 $$ 2>/dev/null; do
      printf '\r      %s: %d s  %s%.60s%s\e[K' "$name" $((SECONDS - start)) "$dim" "$(tail -n 1 "$log" | tr -cd '[:print:]')" "$plain"
      sleep 0.5
    done &
    ticker=$!
  fi
  "$@" >>"$log" 2>&1
  status=$?
  if [ -n "$ticker" ]; then
    kill "$ticker" 2>/dev/null
    wait "$ticker" 2>/dev/null
    printf '\r\e[K'
  fi
  if [ $status -ne 0 ]; then
    tail -n 30 "$log" >&2
    die "$name failed; the whole log is in build/$name.log"
  fi
  say "${dim}$name: $((SECONDS - start)) s$plain"
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "installing packages needs root: run this script as root, or install sudo"
  fi
}

packages_of() { awk -v group="$1" '$1 == group { print $2 }' "$root/deploy/packages"; }

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# install_group GROUP: installs what is missing of it. npm counts as there when a command of that name is.
install_group() {
  local missing=() name
  for name in $(packages_of "$1"); do
    is_installed "$name" && continue
    case $name in npm | nodejs) command -v "${name%js}" >/dev/null && continue ;; esac
    missing+=("$name")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say "all $1 packages are installed"
    return
  fi
  command -v apt-get >/dev/null || die "Kith's scripts install packages with apt-get (Debian 12). On another system install the
       libraries named in deploy/packages yourself."
  say "installing ${#missing[@]} packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  logged apt-update as_root apt-get update
  logged "apt-install-$1" as_root apt-get install -y --no-install-recommends "${missing[@]}"
}

mirrors() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' 2>/dev/null | sort -u
  echo http://deb.debian.org/debian/
  echo http://archive.debian.org/debian/ # where a release goes in the end
}

# fetch PATH SUM WORK: a file of Debian's pool into the cache, from the mirror this machine uses, else from Debian; by way of folder WORK.
fetch() {
  local path=$1 sum=$2 work=$3 name=${1##*/} mirror helper=/usr/lib/apt/apt-helper
  if sha256sum --check --status 2>/dev/null <<<"$sum  $cache/$name"; then return 0; fi
  [ -x $helper ] || die "$helper is missing. Put Debian's $path into $cache"
  for mirror in $(mirrors); do
    "$helper" -o APT::Sandbox::User=root download-file "$mirror$path" "$work/$name" "SHA256:$sum" || continue
    # apt's check once more, without apt: what is used is what the caller names.
    sha256sum --check --status <<<"$sum  $work/$name" && mv "$work/$name" "$cache/$name" && return 0
  done
  echo "Debian's $path could not be fetched from: $(mirrors | tr '\n' ' ')"
  return 1
}

# build_preset NAME [TARGET...]: configures and builds, with ninja's own progress on a terminal.
build_preset() {
  local preset=$1 start=$SECONDS
  shift
  cd "$root" || exit 1
  logged "configure-$preset" cmake --preset "$preset"
  local command=(cmake --build "build/$preset" -j "$jobs")
  [ $# -gt 0 ] && command+=(--target "$@")
  if [ -t 1 ]; then
    NINJA_STATUS='      [%f/%t, %e s] ' "${command[@]}" || die "the build failed, see above"
  else
    logged "build-$preset" "${command[@]}"
  fi
  say "${dim}built build/$preset in $((SECONDS - start)) s$plain"
}
