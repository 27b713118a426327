# make run and make test do all set-up themselves; everything else expects that they ran once.
.PHONY: build build-fips run check test test-fips bench benchmarks fuzz soak flood outages faultp11 mutants ansible tools clean

GO ?= go
STATE_DIR ?= .pkcs11kms-dev
PKGS = ./...
# Debian packages of the independent clients and tools that tests work with, where the commands are not there already.
missing = $(shell $(1) >/dev/null 2>&1 || echo $(2))
# Tests prefer the system's aws to one that a developer has put into PATH, and want version 2.
aws2 = { /usr/bin/aws --version || aws --version; } 2>&1 | grep -q '^aws-cli/2'
MODULES = /usr/lib/$(shell uname -m)-linux-gnu
TEST_TOOLS = $(call missing,command -v pkcs11-tool,opensc) $(call missing,$(aws2),awscli) \
  $(call missing,/usr/bin/python3 -c 'import boto3',python3-boto3) $(call missing,command -v systemd-analyze,systemd) \
  $(call missing,command -v node,nodejs) $(call missing,command -v npm,npm) \
  $(call missing,/usr/bin/python3 -c 'import jwt; import cryptography',python3-jwt python3-cryptography) \
  $(call missing,command -v openssl,openssl) $(call missing,command -v pkcsslotd,opencryptoki) \
  $(call missing,command -v p11-kit,p11-kit) $(call missing,ls $(MODULES)/p11-kit-proxy.so,p11-kit-modules) \
  $(call missing,ls $(MODULES)/libsoftokn3.so,libnss3) $(call missing,{ command -v certutil && command -v modutil; },libnss3-tools) \
  $(call missing,command -v swtpm,swtpm) $(call missing,{ command -v dbus-daemon && command -v dbus-send; },dbus) \
  $(call missing,command -v tpm2-abrmd,tpm2-abrmd) $(call missing,ls $(MODULES)/libtss2-tcti-tabrmd.so.0,libtss2-tcti-tabrmd0) \
  $(call missing,command -v rsyslogd,rsyslog) $(call missing,ls $(MODULES)/rsyslog/lmnsd_gtls.so,rsyslog-gnutls) \
  $(call missing,command -v promtool,prometheus) \
  $(call missing,command -v tpm2_ptool,libtpm2-pkcs11-tools) $(call missing,ls $(MODULES)/pkcs11/libtpm2_pkcs11.so,libtpm2-pkcs11-1)
export CGO_ENABLED = 1

# What "version" prints: the tag and the commit. In an unpacked archive there is none, unless it is given: make VERSION=v1.2.3
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

BUILD = $(GO) build -trimpath -ldflags '-X main.release=$(VERSION)'

build:
	$(BUILD) -o bin/pkcs11kms ./cmd/pkcs11kms

# In FIPS 140-3 mode from the start, with a frozen version of the Go Cryptographic Module, which the Go installation brings along.
# See docs/fips.md.
FIPS_MODULE ?= v1.0.0
build-fips:
	GOFIPS140=$(FIPS_MODULE) $(BUILD) -o bin/pkcs11kms-fips ./cmd/pkcs11kms

# The quick start: installs SoftHSM when it is missing, builds, runs the main job, and then the development server in the
# foreground until Ctrl-C.
run:
	sh softhsm/install.sh
	$(MAKE) --no-print-directory build
	sh test/quickstart.sh bin/pkcs11kms $(STATE_DIR)

check:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "not gofmt'ed:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet $(PKGS)
	$(GO) vet -tags crashtest ./pkcs11kms/internal/crash/ ./pkcs11kms/internal/keyring/ ./pkcs11kms/statedir/
	$(GO) tool staticcheck $(PKGS)
	$(GO) test -timeout 5m -run 'TestArrows|TestForeign|TestHTTPServersHave|TestOneFile|TestDiagram|TestLines' ./test
	$(GO) mod verify

tools:
	sh softhsm/install.sh $(TEST_TOOLS)

# Everything once, with the race detector. PKCS11KMS_REQUIRE names real parts that may not be missing.
test: tools
	PKCS11KMS_REQUIRE=$${PKCS11KMS_REQUIRE-all} $(GO) test -race -timeout 20m $(PKGS)

# Longer runs, by hand.

# What computes, with the module of build-fips, and again where whatever is not approved fails. "make test" has a shorter one.
FIPS_PKGS = ./pkcs11kms/internal/pubkey ./pkcs11kms/internal/sigv4 ./pkcs11kms/iam ./pkcs11kms/jwt ./pkcs11kms/server \
  ./pkcs11kms ./keystore/sqlite
test-fips: tools build-fips
	bin/pkcs11kms-fips version
	GOFIPS140=$(FIPS_MODULE) PKCS11KMS_REQUIRE=all $(GO) test -timeout 20m -run 'TestScripts/^(fips|sign|mac|jwt|remote)$$' ./cmd/pkcs11kms
	GOFIPS140=$(FIPS_MODULE) PKCS11KMS_REQUIRE=all $(GO) test -timeout 20m $(FIPS_PKGS)
	GODEBUG=fips140=only PKCS11KMS_REQUIRE=all $(GO) test -count 1 -timeout 20m $(FIPS_PKGS)

# What docs/performance.md promises, each figure beside its rival in the same run, as one table; and every benchmark there is.
BENCHTIME ?= 1s
bench: tools
	$(GO) run ./test/bench/goals -benchtime $(BENCHTIME)

benchmarks: tools
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(PKGS)

# Server under 1,000 connections for a while; reports memory. And every return value of PKCS #11 from every function, where make test
# tries one of each class.
SOAK ?= 10m
soak: tools
	PKCS11KMS_SOAK=$(SOAK) $(GO) test -run Soak -timeout 0 -v ./pkcs11kms/server
	$(GO) test -run TestReturnValues -timeout 0 ./pkcs11kms -codes=all

# More connections to both listeners than the server has places, in TLS handshakes too; the server is a process of its own
# with the descriptors of docs/pkcs11kms.service and must be at full service within a second afterwards.
FLOOD ?= 30s
flood: tools
	PKCS11KMS_FLOOD=$(FLOOD) $(GO) test -run Flood -timeout 0 -v ./test

# The token is lost and comes back in every way, 20 times each, under a load of MACs and then of signatures, through a server and in
# process; every answer is looked at, and the full rate must be back within a second. Takes half an hour.
outages: tools
	PKCS11KMS_OUTAGES=1 $(GO) test -run Outage -timeout 0 -v ./test

# The PKCS #11 module that injects faults, for use outside the tests, which build it themselves. See test/faultp11/README.md.
faultp11:
	mkdir -p bin
	$(CC) -std=gnu11 -O1 -g -Wall -fPIC -shared -Wl,-z,nodelete -fvisibility=hidden -o bin/faultp11.so test/faultp11/module/*.c -ldl -pthread

# Ansible's modules for keys, users, roles, groups and policies, against a server. Its Debian package is large.
ansible: build
	sh softhsm/install.sh $(call missing,command -v ansible-playbook,ansible) $(call missing,/usr/bin/python3 -c 'import boto3',python3-boto3)
	sh test/clients/ansible.sh bin/pkcs11kms

FUZZTIME ?= 30s
fuzz:
	@for pkg in $$($(GO) list $(PKGS)); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; \
	done

# Small faults in the code, one at a time: which of them does no test notice? See CONTRIBUTING.md. Takes an hour or more.
mutants: tools
	$(GO) run ./test/mutants $(MUTANTS)

clean:
	rm -rf bin
