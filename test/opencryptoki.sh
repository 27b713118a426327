# Tries what opencryptoki is known for: the handle of an object that another client has destroyed is given to another object. Six times a
# server uses a key, pkcs11-tool destroys its object, another process makes a second key, and the server uses both. Prints how often it
# answered for the first key.
#
#   unshare --mount --ipc --pid --fork --mount-proc sh test/tokens/opencryptoki.sh DIRECTORY sh test/opencryptoki.sh BINARY DIRECTORY
set -eu
bin=$1
dir=$2
export PKCS11KMS_STATE_DIR="$dir/state"
"$bin" init --token "pkcs11:token=$TOKEN_LABEL?module-path=$TOKEN_MODULE&pin-source=file:$TOKEN_PIN_FILE" >/dev/null
"$bin" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 >"$dir/serve" 2>"$dir/serve.log" &
server=$!
until grep -q '^ready' "$dir/serve"; do kill -0 $server; sleep 0.1; done
url=$(cut -d ' ' -f 2 "$dir/serve")

"$bin" iam create-access-key --query 'AccessKey.[AccessKeyId,SecretAccessKey]' --output text >"$dir/credentials"
read -r AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY <"$dir/credentials"
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION=us-east-1

create_key() {
	"$bin" create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC --query KeyMetadata.KeyId --output text
}
mac() { # by the server
	"$bin" generate-mac --endpoint-url "$url" --key-id "$1" --mac-algorithm HMAC_SHA_256 --message AAAA --query Mac --output text
}
cka_id() {
	"$bin" doctor --json | sed -n '/"key_id": "'"$1"'"/,/"cka_id"/ s/.*"cka_id": "\([0-9a-f]*\)".*/\1/p'
}

wrong=0 refused=0 other=0
for round in 1 2 3 4 5 6; do
	old=$(create_key)
	mac "$old" >"$dir/before"
	pkcs11-tool --module "$TOKEN_MODULE" --token-label "$TOKEN_LABEL" --login --pin "$(cat "$TOKEN_PIN_FILE")" \
		--delete-object --type secrkey --id "$(cka_id "$old")" >/dev/null 2>&1
	new=$(create_key)
	mac "$new" >"$dir/new"
	if mac "$old" >"$dir/old" 2>"$dir/refusal"; then
		if cmp -s "$dir/old" "$dir/before"; then other=$((other + 1)); else wrong=$((wrong + 1)); fi
	elif grep -q KeyUnavailableException "$dir/refusal"; then
		refused=$((refused + 1))
	else
		other=$((other + 1))
	fi
	mac "$new" | cmp -s - "$dir/new" || other=$((other + 1))
done
echo "wrong MACs: $wrong, KeyUnavailableException: $refused, otherwise: $other"
