#!/bin/sh
# The main job in a minute: a key in a SoftHSM token, a MAC, its verification, and the refusal of a changed message; then
# JSON Web Tokens, HS256 with that key and RS256 with a key pair, and the refusal of one with a foreign signature.
# Then the development server, until Ctrl-C. Every command is printed before it runs, in a form that can be pasted.
#
# usage: quickstart.sh BINARY [STATE_DIR [SERVE_FLAG...]]
#
# The state directory (default ./.pkcs11kms-dev) is made when it is missing and kept for the next run. The flags are for
# "serve". With QUICKSTART_SERVE=0 in the environment the server is left out.
set -eu

if [ $# -lt 1 ]; then
	echo "usage: $0 BINARY [STATE_DIR [SERVE_FLAG...]]" >&2
	exit 2
fi
pkcs11kms=$1
dir=${2:-./.pkcs11kms-dev}
shift
[ $# -eq 0 ] || shift
algorithm=HMAC_SHA_256
message=SGVsbG8=  # base64 of Hello
changed=SGVsbG8h  # base64 of Hello!
claims='{"sub":"alice"}'

# quote prints a word as a shell reads it back.
quote() {
	case $1 in
	*[!A-Za-z0-9_./:=@%+,-]* | '') printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
	*) printf %s "$1" ;;
	esac
}

show() {
	printf '$'
	for word in "$@"; do
		printf ' '
		quote "$word"
	done
	echo
}

exec 3>&1  # the commands go here, since the output of some of them is captured

run() {
	show "$@" >&3
	"$@"
}

unset PKCS11KMS_PIN
PKCS11KMS_STATE_DIR=$dir
export PKCS11KMS_STATE_DIR
show export "PKCS11KMS_STATE_DIR=$dir"

if [ ! -e "$dir/config.yaml" ]; then
	run "$pkcs11kms" init --softhsm
fi

key=$(run "$pkcs11kms" create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC \
	--description quickstart --query KeyMetadata.KeyId --output text)
echo "$key"

mac=$(run "$pkcs11kms" generate-mac --key-id "$key" --mac-algorithm "$algorithm" --message "$message" \
	--query Mac --output text)
echo "$mac"

run "$pkcs11kms" verify-mac --key-id "$key" --mac-algorithm "$algorithm" --message "$message" --mac "$mac"

# must_refuse TEXT WHAT COMMAND...: the command must be refused, by this error and no other.
must_refuse() {
	text=$1 what=$2 status=0
	shift 2
	refusal=$(run "$@" 2>&1) || status=$?
	echo "$refusal"
	case $status:$refusal in
	1:*"$text"*) echo "The $what was refused, as it must be." ;;
	*)
		echo "quickstart: the $what was not refused as it must be (exit status $status)" >&2
		exit 1
		;;
	esac
}

must_refuse KMSInvalidMacException "changed message" \
	"$pkcs11kms" verify-mac --key-id "$key" --mac-algorithm "$algorithm" --message "$changed" --mac "$mac"

hs256=$(run "$pkcs11kms" jwt sign --key-id "$key" --claims "$claims" --expires-in 1h)
echo "$hs256"
run "$pkcs11kms" jwt verify --key-id "$key" "$hs256"

pair=$(run "$pkcs11kms" create-key --key-spec RSA_2048 --key-usage SIGN_VERIFY \
	--description quickstart --query KeyMetadata.KeyId --output text)
echo "$pair"
rs256=$(run "$pkcs11kms" jwt sign --key-id "$pair" --claims "$claims" --expires-in 1h)
echo "$rs256"
run "$pkcs11kms" jwt verify --key-id "$pair" "$rs256"
must_refuse "signature is invalid" "foreign signature" "$pkcs11kms" jwt verify --key-id "$key" --key-id "$pair" "${rs256%.*}.${hs256##*.}"

[ "${QUICKSTART_SERVE:-1}" != 0 ] || exit 0

# In place of this shell, so that Ctrl-C and other signals reach the server alone.
show "$pkcs11kms" serve --dev "$@"
exec "$pkcs11kms" serve --dev "$@" 3>&-
