# SoftHSM in a process of its own, which p11-kit serves over a socket: what a network HSM is like. The server keeps the token that it
# was started for, and forks a child for each client.
. "$(dirname "$0")/common.sh"
softhsm=${SOFTHSM2_MODULE:-$lib/softhsm/libsofthsm2.so}
module=$lib/pkcs11/p11-kit-client.so
mkdir "$dir/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$dir/tokens" >"$dir/softhsm2.conf"
export SOFTHSM2_CONF="$dir/softhsm2.conf"
softhsm2-util --init-token --free --label kms --so-pin $so_pin --pin $pin >/dev/null
p11-kit server --provider "$softhsm" -f --name "$dir/socket" pkcs11:token=kms >"$dir/server.log" 2>&1 &
unset SOFTHSM2_CONF
export P11_KIT_SERVER_ADDRESS="unix:path=$dir/socket"
await test -S "$dir/socket"
foreign_keys "$module"
give "$module" p11-kit "$@"
