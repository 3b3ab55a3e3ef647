# `make help` lists the targets. Build and test need Go and make; the other tools are installed, at the versions
# in .ci/tools.env, into .tools/bin when they are first used.

include .ci/tools.env

MODULES := $(shell go list -m -f '{{.Dir}}')
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# grpcnotrace leaves out a package of gRPC's that keeps the linker from pruning.
TAGS    := grpcnotrace
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOLS   := $(CURDIR)/.tools/bin
export PATH := $(TOOLS):$(PATH)

# The race detector needs a C compiler.
CC_FOUND := $(shell command -v $$(go env CC) 2>/dev/null)
RACE     := $(if $(CC_FOUND),-race,)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## build bin/coppice, static and stripped
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/coppice ./services/coppice

.PHONY: test
test: ## every test of every module, with the race detector where a C compiler exists
	@echo "race detector: $(if $(RACE),on ($(CC_FOUND)),off: no C compiler)"
	$(if $(RACE),CGO_ENABLED=1) go test $(RACE) -tags $(TAGS) -timeout 15m work

.PHONY: bench
bench: ## benchmarks, each beside its reference
	go test -tags $(TAGS) -run '^$$' -bench . -benchtime 1s ./replica/forest/engine ./replica/forest/model ./replica/forest/store ./replica/forest/train ./telemetry/latency ./proto/frame
	go test -tags '$(TAGS) bench' -count=1 -v -timeout 20m ./services/e2e/bench

# Cases beyond those of the repository: make exact FIXTURES=DIR
FIXTURES ?= $(wildcard ../shared/fixtures)
EXACT    := -count=1 -tags '$(TAGS) exact' -v ./services/e2e/exact $(if $(FIXTURES),-fixtures $(abspath $(FIXTURES)))

.PHONY: exact
exact: ## compare every output with what the models' libraries gave, bit by bit; also built for AVX2 and, where qemu-aarch64 is, for arm64
	@set -x; failed=0; go test $(EXACT) || failed=1; \
	if grep -qs ' avx2 ' /proc/cpuinfo; then GOAMD64=v3 go test $(EXACT) -brief || failed=1; fi; \
	if command -v qemu-aarch64 >/dev/null; then CGO_ENABLED=0 GOARCH=arm64 go test -exec qemu-aarch64 $(EXACT) -brief || failed=1; fi; \
	exit $$failed

.PHONY: campaign
campaign: ## kill and drain parts of a mesh at half of its capacity and compare every answer; COPPICE_SEED=N
	go test -tags '$(TAGS) campaign' -count=1 -v -timeout 20m ./services/e2e/campaign

.PHONY: proto
proto: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## generate code from proto/
	buf generate

.PHONY: asm
asm: ## generate the engine's assembly, replica/forest/engine/internal/simd
	.ci/asm replica/forest/engine/internal/simd

.PHONY: fix
fix: proto asm $(TOOLS)/gofumpt ## write what verify checks: generated code, format, go.mod files
	buf format -w
	gofumpt -w $$(git ls-files '*.go' | grep -v '\.pb\.go$$')
	for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy) || exit 1; done

.PHONY: lint
lint: $(TOOLS)/golangci-lint $(TOOLS)/buf ## golangci-lint and buf lint
	golangci-lint run $(addsuffix /...,$(patsubst $(CURDIR)/%,./%,$(MODULES)))
	buf lint

.PHONY: verify
verify: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc $(TOOLS)/gofumpt ## fail where fix would change something, or a module does not stand alone
	.ci/verify $(MODULES)

.PHONY: test-compose
test-compose: build ## bring deployments/compose.yaml up and try it; needs a Docker engine
	deployments/test/run

$(TOOLS)/buf: .ci/tools.env
	GOBIN=$(TOOLS) go install $(BUF) && touch $@
$(TOOLS)/protoc-gen-go: .ci/tools.env
	GOBIN=$(TOOLS) go install $(PROTOC_GEN_GO) && touch $@
$(TOOLS)/protoc-gen-go-grpc: .ci/tools.env
	GOBIN=$(TOOLS) go install $(PROTOC_GEN_GO_GRPC) && touch $@
$(TOOLS)/gofumpt: .ci/tools.env
	GOBIN=$(TOOLS) go install $(GOFUMPT) && touch $@
$(TOOLS)/golangci-lint: .ci/tools.env
	GOBIN=$(TOOLS) go install $(GOLANGCI_LINT) && touch $@
