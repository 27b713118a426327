# NSS softokn. Its module wants its parameters in C_Initialize, which p11-kit's proxy module gives it from a configuration file.
. "$(dirname "$0")/common.sh"
module=$lib/p11-kit-proxy.so
mkdir "$dir/nss"
certutil -N -d "sql:$dir/nss" -f "$dir/pin"
mount -t tmpfs tmpfs /usr/share/p11-kit/modules # beside it in /etc/pkcs11/modules there may be others, which the label tells apart
cat >/usr/share/p11-kit/modules/nss.module <<END
module: $lib/libsoftokn3.so
x-init-reserved: configdir='sql:$dir/nss' certPrefix='' keyPrefix='' secmod='secmod.db' flags= dbTokenDescription='kms'
END
foreign_keys "$module"
give "$module" libnss3 "$@"
