#!/bin/sh
# Installs SoftHSM with the system's package manager when its PKCS#11 module is missing.
#
#   softhsm/install.sh [DEBIAN-PACKAGE...]
#
# On Debian and Ubuntu, the packages named as arguments are installed with it when they are missing; elsewhere they are
# named, for the user to find their counterparts. It asks no question and says nothing when there is nothing to do. It
# needs root or sudo, except with Homebrew.
set -eu

say() { echo "install.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

# The same places as in find.go.
have_module() {
	if [ -n "${SOFTHSM2_MODULE:-}" ]; then
		[ -f "$SOFTHSM2_MODULE" ] || fail "SOFTHSM2_MODULE names '$SOFTHSM2_MODULE', which is no file: correct or unset it"
		return 0
	fi
	for module in \
		/usr/lib/softhsm/libsofthsm2.so \
		/usr/lib/*-linux-gnu*/softhsm/libsofthsm2.so \
		/usr/lib/*-linux-gnu*/pkcs11/libsofthsm2.so \
		/usr/lib64/pkcs11/libsofthsm2.so \
		/usr/lib64/softhsm/libsofthsm2.so \
		/usr/lib64/libsofthsm2.so \
		/usr/lib/pkcs11/libsofthsm2.so \
		/opt/homebrew/lib/softhsm/libsofthsm2.so \
		/usr/local/lib/softhsm/libsofthsm2.so \
		/home/linuxbrew/.linuxbrew/lib/softhsm/libsofthsm2.so \
		/opt/homebrew/lib/softhsm/libsofthsm2.dylib \
		/usr/local/lib/softhsm/libsofthsm2.dylib; do
		[ -f "$module" ] && return 0
	done
	return 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# as_root runs a command as root and shows it first.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		say "running: $*"
		"$@"
	elif have sudo; then
		say "running: sudo $*"
		sudo "$@"
	else
		fail "not root and no sudo: run as root: $*"
	fi
}

install_debian() {
	as_root apt-get -o DPkg::Lock::Timeout=300 update ||
		say "updating the package lists failed: going on with those that are there"
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
}

missing=
if ! have_module; then
	missing=softhsm2
fi

if have apt-get && have dpkg; then
	for package; do
		dpkg -s "$package" 2>/dev/null | grep -q '^Status: .* installed$' || missing="$missing $package"
	done
	# Package names have no blanks: splitting is wanted.
	# shellcheck disable=SC2086
	[ -z "$missing" ] || install_debian $missing
else
	[ $# -eq 0 ] || say "no Debian or Ubuntu: if they are missing, install the counterparts of: $*"
	[ -n "$missing" ] || exit 0
	if have dnf; then
		as_root dnf install -y softhsm
	elif have apk; then
		as_root apk add softhsm
	elif have pacman; then
		as_root pacman -S --noconfirm --needed softhsm
	elif have brew; then
		say "running: brew install softhsm"
		brew install softhsm
	else
		fail "no package manager known here: install SoftHSM 2 by hand and set SOFTHSM2_MODULE to its libsofthsm2.so"
	fi
fi

have_module || fail "installed, but libsofthsm2 is in none of the usual places: set SOFTHSM2_MODULE to its path"
