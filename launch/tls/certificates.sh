#!/usr/bin/env bash
# Makes the certificates of a mutual-TLS tunnel: an authority of your own, and a folder for each machine that it admits.
set -euo pipefail

fail() { printf 'certificates.sh: %s\n' "$1" >&2; exit 2; }
usage() {
  cat <<'END'
Usage: launch/tls/certificates.sh --to=FOLDER [--server=NAME[,NAME...]] [--client=NAME] ... [--days=365]

  --server  a replay machine, by the host names and IP addresses that others connect to; its folder has the first
  --client  a machine, or a user, that may connect

FOLDER/ca stays where it is: whoever has its key admits others. FOLDER/NAME goes to the machine. What is there already
stays as it is, so that the same command with more names adds them.
END
}

to='' days=365 servers=() clients=()
for argument in "$@"; do
  case "$argument" in
    --to=?*) to=${argument#*=} ;;
    --server=?*) servers+=("${argument#*=}") ;;
    --client=?*) clients+=("${argument#*=}") ;;
    --days=?*) days=${argument#*=} ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown argument '$argument'; --help lists them." ;;
  esac
done
[ -n "$to" ] || fail "no folder was chosen: add --to=FOLDER."
[ $((${#servers[@]} + ${#clients[@]})) -gt 0 ] || fail "nobody was named: add --server=NAME or --client=NAME."
[[ $days =~ ^[1-9][0-9]{0,4}$ ]] || fail "--days=$days: it must be a number of days."
# A name becomes a folder's and stands in a certificate.
NAME='[A-Za-z0-9][A-Za-z0-9._:-]*'
for name in ${servers[@]+"${servers[@]}"} ${clients[@]+"${clients[@]}"}; do
  [[ $name =~ ^$NAME(,$NAME)*$ && ,$name, != *,ca,* ]] || fail "'$name' cannot be the name of a machine."
done
for name in ${clients[@]+"${clients[@]}"}; do
  [[ $name != *,* ]] || fail "--client=$name: give each client a --client of its own."
done
command -v openssl >/dev/null || fail "openssl is not installed (Debian: apt-get install openssl)."

# Keys are for their owner's eyes, from their first byte on.
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
KEY=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
run() { openssl "$@" 2>"$work/log" || { cat "$work/log" >&2; fail "openssl $1 failed; its own words stand above."; }; }

# make FOLDER SUBJECT EXTENSION...: a key and a certificate that is signed by the authority, or by itself where that is made
make() {
  local folder=$1 subject=$2; shift 2
  printf '%s\n' "$@" >"$work/extensions"
  run req -new "${KEY[@]}" -keyout "$work/key" -out "$work/request" -subj "/CN=$subject"
  local signer=(-signkey "$work/key")
  [ "$folder" = ca ] || signer=(-CA "$to/ca/ca.pem" -CAkey "$to/ca/ca.key" -set_serial "0x$(openssl rand -hex 16)")
  run x509 -req -in "$work/request" "${signer[@]}" -sha256 -days "$days" -extfile "$work/extensions" -out "$work/cert"
}

if [ ! -e "$to/ca" ]; then
  make ca "Encore $(openssl rand -hex 4)" basicConstraints=critical,CA:true keyUsage=critical,keyCertSign,cRLSign
  mkdir -p "$to"
  mkdir "$work/ca" && mv "$work/cert" "$work/ca/ca.pem" && mv "$work/key" "$work/ca/ca.key"
  mv "$work/ca" "$to/ca"
fi

# machine NAME EXTENSION...: the folder of a machine, which is there whole or not at all
machine() {
  local name=$1; shift
  if [ -e "$to/$name" ]; then
    printf '%s is there already.\n' "$to/$name"
    return
  fi
  make "$name" "$name" basicConstraints=critical,CA:false keyUsage=critical,digitalSignature "$@"
  mkdir "$work/$name"
  cat "$work/cert" "$work/key" >"$work/$name/own.pem"
  cp "$to/ca/ca.pem" "$work/$name/ca.pem"
  mv "$work/$name" "$to/$name"
  printf '%s\n' "$to/$name"
}

# The purpose is part of a certificate: one that was made for a client is no server's, and the other way round.
for names in ${servers[@]+"${servers[@]}"}; do
  alternatives=''
  for name in ${names//,/ }; do
    kind=DNS
    [[ $name =~ ^[0-9.]+$ || $name == *:* ]] && kind=IP
    alternatives+=${alternatives:+,}$kind:$name
  done
  machine "${names%%,*}" extendedKeyUsage=serverAuth "subjectAltName=$alternatives"
done
for name in ${clients[@]+"${clients[@]}"}; do machine "$name" extendedKeyUsage=clientAuth; done
