#!/bin/sh
# Has Ansible's modules for keys, roles, policies, users and groups make, change, read and delete those of a server on a SoftHSM token of its
# own, and looks that no other key was made on the way.
#
# usage: ansible.sh BINARY
set -eu

[ $# -eq 1 ] || { echo "usage: $0 BINARY" >&2; exit 2; }
pkcs11kms=$1
here=$(dirname "$0")
dir=$(mktemp -d)
server=
finish() {
	[ -z "$server" ] || { kill "$server" && wait "$server"; } || true
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

unset PKCS11KMS_PIN AWS_PROFILE AWS_SESSION_TOKEN
export PKCS11KMS_STATE_DIR="$dir/kms" HOME="$dir" ANSIBLE_LOCALHOST_WARNING=false
"$pkcs11kms" init --softhsm >/dev/null
access_key() { "$pkcs11kms" iam create-access-key --query "AccessKey.[AccessKeyId,SecretAccessKey]" --output text; }
# shellcheck disable=SC2046
set -- $(access_key)
export AWS_ACCESS_KEY_ID="$1" AWS_SECRET_ACCESS_KEY="$2" AWS_REGION=us-east-1

"$pkcs11kms" serve --listen 127.0.0.1:0 --admin-listen off >"$dir/ready" 2>"$dir/log" &
server=$!
until grep -q '^ready ' "$dir/ready"; do
	kill -0 "$server" || { cat "$dir/log" >&2; exit 1; }
	sleep 0.1
done
AWS_URL=$(cut -d ' ' -f 2 "$dir/ready")
export AWS_URL

# The system's Python has the boto3 that Debian's Ansible goes with.
ansible-playbook --inventory localhost, --connection local --extra-vars ansible_python_interpreter=/usr/bin/python3 "$here/ansible.yml"
ansible-playbook --inventory localhost, --connection local --extra-vars ansible_python_interpreter=/usr/bin/python3 "$here/ansible-iam.yml"
keys=$("$pkcs11kms" list-keys --query 'length(Keys)' --output text)
[ "$keys" = 1 ] || { echo "$keys keys were made for one" >&2; exit 1; }
