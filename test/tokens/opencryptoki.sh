# A soft token of opencryptoki, which has one configuration, one daemon and one directory of tokens for a machine, and shares memory among
# its processes, in /dev/shm and by System V IPC.
. "$(dirname "$0")/common.sh"
module=$lib/opencryptoki/libopencryptoki.so
test -e "$module" || module=$module.0
for path in /etc/opencryptoki /var/lib/opencryptoki /run /dev/shm; do
	mount -t tmpfs tmpfs "$path"
done
umask 022
mkdir -p /run/lock # which /var/lock leads to
mkdir -p /var/lib/opencryptoki/swtok/TOK_OBJ /var/lock/opencryptoki/swtok /run/opencryptoki
chgrp -R pkcs11 /var/lib/opencryptoki /var/lock/opencryptoki /run/opencryptoki
printf 'version opencryptoki-3.8\n\nslot 3\n{\nstdll = libpkcs11_sw.so\n}\n' >/etc/opencryptoki/opencryptoki.conf
pkcsslotd -f >"$dir/pkcsslotd.log" 2>&1 &
await pkcsconf -t
echo kms | pkcsconf -I -c 3 -S 87654321 >/dev/null
pkcsconf -P -c 3 -S 87654321 -n $so_pin
pkcsconf -u -c 3 -S $so_pin -n $pin
umask 077
foreign_keys "$module"
give "$module" opencryptoki "$@"
