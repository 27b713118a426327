# NSS softokn in FIPS mode, by the module of nssfips.c. The mode belongs to the data base, in which modutil has switched it on.
. "$(dirname "$0")/common.sh"
module=$dir/nssfips.so
cc -shared -fPIC -o "$module" "$(dirname "$0")/nssfips.c" -ldl
mkdir "$dir/nss"
certutil -N -d "sql:$dir/nss" -f "$dir/pin"
modutil -fips true -dbdir "sql:$dir/nss" -force >"$dir/modutil.log" 2>&1
export NSS_PARAMETERS="configdir='sql:$dir/nss' certPrefix='' keyPrefix='' secmod='secmod.db' flags= FIPSTokenDescription='kms'"
foreign_keys "$module"
give "$module" libnss3 "$@"
