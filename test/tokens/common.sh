# What the scripts beside this one share. Each makes a token and then runs a command that finds it by the environment:
#
#   unshare --mount --ipc --pid --fork --kill-child --mount-proc sh test/tokens/NAME.sh DIRECTORY COMMAND...
#
# Every process that a script starts ends with the command, since that takes the script's place as the first of its namespace; what
# a token needs of the machine's own directories is covered by mounts of the namespace. DIRECTORY is empty and takes the rest.
set -eu
dir=$1
shift
lib=/usr/lib/$(uname -m)-linux-gnu
so_pin=76543210
pin=12345678
umask 077
mount --make-rprivate /
printf %s "$pin" >"$dir/pin"
export LC_ALL=C

# await COMMAND...: until it succeeds. Whoever started the script ends it when that takes too long.
await() {
	until "$@" >/dev/null 2>&1; do sleep 0.05; done
}

# foreign_keys MODULE: keys as another application makes them, for adoption. Not every token can make each of them.
foreign_keys() {
	foreign "$1" --keygen --key-type generic:32 --label theirs-HMAC_256 --id a1
	foreign "$1" --keypairgen --key-type rsa:2048 --label theirs-RSA_2048 --id a2
	foreign "$1" --keypairgen --key-type EC:prime256v1 --label theirs-ECC_NIST_P256 --id a3
}
foreign() {
	module=$1
	shift
	pkcs11-tool --module "$module" --token-label kms --login --pin $pin --usage-sign --sensitive "$@" >>"$dir/foreign.log" 2>&1 || true
}

# give MODULE PACKAGE COMMAND...: the token is ready. PACKAGE is the Debian package that it is of.
give() {
	export TOKEN_MODULE="$1" TOKEN_LABEL=kms TOKEN_PIN_FILE="$dir/pin"
	TOKEN_VERSION="$2 $(dpkg-query -W -f '${Version}' "$2")"
	export TOKEN_VERSION
	shift 2
	exec "$@"
}
