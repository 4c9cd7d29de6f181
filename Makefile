# The index of everything that is done to this tree. `make help` prints it.

PREFIX ?= /usr/local
DESTDIR ?=
VERSION := $(shell sed -n 's/^## \([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
SYSTEM := $(shell uname -s | tr A-Z a-z)-$(shell uname -m)

# Debian's names. The README has Homebrew's.
LIBRARIES := pkg-config libdeflate-dev zlib1g-dev libzstd-dev libbz2-dev liblzma-dev libssl-dev python3
ORACLES := qemu-utils libnbd-bin nbdkit 7zip dmg2img libvmdk-utils libvhdi-utils libqcow-utils cryptsetup-bin \
  xz-utils zstd python3-pip
BOOT := qemu-system-x86 qemu-utils busybox-static extlinux syslinux-common e2fsprogs fdisk

# One file that needs nothing on the machine it runs on, and starts in a quarter of the time that loading shared
# libraries takes. Other systems than Linux have no static C library.
RELEASE := -c release --static-swift-stdlib --product platter
ifeq ($(shell uname -s),Linux)
RELEASE += -Xswiftc -static-executable
endif
PROGRAM = $(shell swift build $(RELEASE) --show-bin-path)/platter
ORACLE_FOLDER := .build-oracles
SECONDS ?= 480
TEST := swift test --disable-xctest

.PHONY: help build demo test check prove lint bench bare fuzz fuzz-smoke boot install dist libraries oracles clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: libraries ## build the release program
	swift build $(RELEASE)
	@echo "built $(PROGRAM)"

demo: build ## build, then watch compressed disk images become raw disks
	@python3 Scripts/demo $(PROGRAM)

test: libraries oracles ## run every test, against the other programs too
	bash Scripts/run-tests $(TEST)

check: lint libraries oracles ## what CI runs: lint, release build, the build without codecs, fuzz smoke, all tests
	swift build $(RELEASE)
	$(MAKE) --no-print-directory bare
	$(MAKE) --no-print-directory fuzz-smoke
	bash Scripts/run-tests $(TEST)

prove: libraries ## the writer in large numbers: 10,000 sequences, 100,000 crash images, 20,000 faults, 300 runs of threads
	PLATTER_PROVE=1 swift build -c release --product prove --scratch-path .build-prove
	.build-prove/release/prove $(PROOFS)

lint: ## check the formatting of all Swift code
	swift format lint --strict --parallel --recursive Package.swift Sources Tests Fuzz Benchmarks

bench: build ## compare speed and memory with qemu-img: make bench JOBS="info map" OPTIONS=--quick
	PLATTER_TOOLS=1 swift build -c release --product pack-units --scratch-path .build-tools
	python3 Benchmarks/bench --program $(PROGRAM) --packer .build-tools/release/pack-units $(OPTIONS) $(JOBS)

bare: libraries ## build without the package traits, as users of the library may
	bash Scripts/build-bare

fuzz-smoke: libraries ## build all fuzz targets and run each for a few seconds
	bash Scripts/fuzz

fuzz: libraries ## over an hour of fuzzing: make fuzz SECONDS=480 KEEP=--keep to renew the seeds
	bash Scripts/fuzz $(KEEP) $(SECONDS)

boot: build ## install Linux into a qcow2 that platter makes, and boot it under QEMU: make boot OPTIONS=extended_l2=on
	bash Scripts/install-packages $(BOOT)
	python3 Scripts/boot-vm $(PROGRAM) $(OPTIONS)

install: build ## install the program below PREFIX (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/platter

dist: build ## make dist/platter-VERSION-SYSTEM.tar.gz and the source archive
	rm -rf dist && mkdir -p dist/platter-$(VERSION)
	cp $(PROGRAM) README.md LICENSE CHANGELOG.md dist/platter-$(VERSION)/
	strip dist/platter-$(VERSION)/platter
	tar -C dist --owner=0 --group=0 -czf dist/platter-$(VERSION)-$(SYSTEM).tar.gz platter-$(VERSION)
	git archive --prefix=platter-$(VERSION)/ -o dist/platter-$(VERSION)-source.tar.gz HEAD
	rm -r dist/platter-$(VERSION)
	@ls -l dist

libraries:
	@bash Scripts/install-packages $(LIBRARIES)

oracles:
	@bash Scripts/install-packages $(ORACLES)
	@bash Scripts/install-readers $(ORACLE_FOLDER)

clean: ## remove everything that was built
	rm -rf .build .build-bare .build-fuzz .build-prove .build-boot .build-tools $(ORACLE_FOLDER) dist
