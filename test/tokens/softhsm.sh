# SoftHSM in this process's library.
. "$(dirname "$0")/common.sh"
module=${SOFTHSM2_MODULE:-$lib/softhsm/libsofthsm2.so}
mkdir "$dir/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$dir/tokens" >"$dir/softhsm2.conf"
export SOFTHSM2_CONF="$dir/softhsm2.conf"
softhsm2-util --init-token --free --label kms --so-pin $so_pin --pin $pin >/dev/null
foreign_keys "$module"
give "$module" libsofthsm2 "$@"
