# The same targets for people and CI. `make demo` and `make test` need root and install what they use.

CARGO_TARGET_DIR ?= target
# Where deps.sh puts the tools that Debian has not, or not new enough.
export PATH := $(abspath $(CARGO_TARGET_DIR))/tools:$(PATH)

# Packages are there before anything is built; cargo uses all cores by itself.
.NOTPARALLEL:

.PHONY: demo demo-stop test test-vm unit privileged scenarios image-test image build bench check fmt deps deps-vm clients

## demo: the walk-through on this machine, with real nodes; KEEP=1 leaves them running, NODE=vm boots one in QEMU
demo: $(if $(filter vm,$(NODE)),deps-vm,deps) build
	@KEEP=$(KEEP) NODE=$(NODE) demo/demo.sh

## test-vm: the recipe of examples/automount-ldap on a machine that boots a kernel of its own, with OpenLDAP and NFS beside it
test-vm: deps-vm
	@demo/deps.sh rust
	@echo '==> building caprock'
	@cargo build --quiet -p caprock
	@CAPROCK=$(abspath $(CARGO_TARGET_DIR))/debug/caprock KEEP=$(KEEP) demo/vm/automount.sh

## demo-stop: end and remove what `make demo KEEP=1` left
demo-stop:
	@demo/demo.sh stop

## test: everything; `cargo test` alone is the part that needs neither root nor network
test: unit privileged scenarios image-test

unit: clients
	@echo '==> building the tests'
	cargo test --workspace --no-run
	@echo '==> tests without root and network'
	cargo test --workspace --quiet

privileged: unit
	@demo/base-image.sh >/dev/null
	@echo '==> tests as root: crun, overlayfs, ostree, the whole product'
	CAPROCK_TEST_PRIVILEGED=1 cargo test --workspace --quiet privileged_

scenarios: privileged
	@echo '==> scenarios on real nodes'
	@cargo build --quiet -p caprock
	@CAPROCK=$(abspath $(CARGO_TARGET_DIR))/debug/caprock demo/scenarios.sh

# Last: its program is linked in another way than that of the tests.
image-test: scenarios
	@deploy/image-test.sh

## image: Caprock's images, into target/image; PUSH=registry.example.com/caprock:TAG pushes them, ARCHS=amd64,arm64 makes both
image: deps
	@PUSH=$(PUSH) $(if $(ARCHS),ARCHS=$(ARCHS)) deploy/image.sh

build:
	@demo/deps.sh rust
	cargo build --release -p caprock

## bench: times of the builder beside buildah's, of the API server and of a roll-out, as tables; for a quiet machine, as root
bench: deps build
	@bench/bench.py --caprock $(abspath $(CARGO_TARGET_DIR))/release/caprock --work $(abspath $(CARGO_TARGET_DIR))/bench
	@bench/api.py --caprock $(abspath $(CARGO_TARGET_DIR))/release/caprock --work $(abspath $(CARGO_TARGET_DIR))/bench
	@bench/fleet.py --caprock $(abspath $(CARGO_TARGET_DIR))/release/caprock --work $(abspath $(CARGO_TARGET_DIR))/bench

check:
	@demo/deps.sh rust
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	@if command -v shellcheck >/dev/null; then shellcheck demo/*.sh demo/nodes/*.sh demo/vm/*.sh demo/scenarios/*.sh demo/disruption/*.sh deploy/*.sh .ci/run \
		crates/agent/src/watch.sh crates/agent/tests/host/tool.sh crates/builder/tests/pod.sh; \
	else echo 'shellcheck is not installed; the scripts are not checked'; fi

fmt:
	cargo fmt --all

deps:
	@demo/deps.sh

# QEMU, an SSH client, and the servers of the test on a machine.
deps-vm:
	@demo/deps.sh vm

# What only the tests need.
clients:
	@demo/deps.sh clients
