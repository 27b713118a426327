# A TPM by tpm2-pkcs11: swtpm emulates it, and tpm2-abrmd, on a D-Bus of its own, shares it among processes. Its keys are made by its
# own tool, tpm2_ptool.
. "$(dirname "$0")/common.sh"
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus "$dir/tpm" "$dir/store"
swtpm socket --tpm2 --tpmstate "dir=$dir/tpm" --flags not-need-init,startup-clear \
	--server "type=unixio,path=$dir/swtpm" --ctrl "type=unixio,path=$dir/swtpm.ctrl" >"$dir/swtpm.log" 2>&1 &
dbus-daemon --system --nofork --nopidfile >"$dir/dbus.log" 2>&1 &
await test -S "$dir/swtpm" -a -S "$dir/swtpm.ctrl" -a -S /run/dbus/system_bus_socket

# tpm2-abrmd 3.0.0 sometimes forgets its own name at the start, and then nobody finds it: about once in 50 starts.
start_abrmd() {
	tpm2-abrmd --allow-root --tcti="swtpm:path=$dir/swtpm" >"$dir/abrmd.log" 2>&1 &
	abrmd=$!
}
found() {
	dbus-send --system --print-reply --dest=org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus.NameHasOwner \
		string:com.intel.tss2.Tabrmd | grep -q true
}
start_abrmd
until found 2>"$dir/dbus-send.log"; do
	if ! kill -0 $abrmd || grep -q CRITICAL "$dir/abrmd.log"; then
		kill -9 $abrmd || true
		start_abrmd
	fi
	sleep 0.05
done

export TPM2_PKCS11_TCTI=tabrmd: TPM2_PKCS11_STORE="$dir/store" TPM2_PKCS11_LOG_LEVEL=0
tpm2_ptool init >"$dir/ptool.log"
tpm2_ptool addtoken --pid 1 --sopin $so_pin --userpin $pin --label kms
tpm2_ptool addkey --algorithm hmac:sha256 --label kms --userpin $pin --key-label theirs-HMAC_256 >>"$dir/ptool.log"
tpm2_ptool addkey --algorithm rsa2048 --label kms --userpin $pin --key-label theirs-RSA_2048 >>"$dir/ptool.log"
tpm2_ptool addkey --algorithm ecc256 --label kms --userpin $pin --key-label theirs-ECC_NIST_P256 >>"$dir/ptool.log"
give "$lib/pkcs11/libtpm2_pkcs11.so" libtpm2-pkcs11-1 "$@"
