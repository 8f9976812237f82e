# SPDX-License-Identifier: Apache-2.0
# Quarry: build, run and test.  `make help` lists the targets.
#
#   SAN=address|thread   sanitizers (address: ASan and UBSan), built in a folder of its own
#   CC=gcc|clang         either works

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=
override SAN := $(patsubst 1,address,$(SAN))
MUTANTS ?=
COVERAGE ?=
BUILD := build$(if $(SAN),-$(SAN))$(if $(filter clang%,$(CC)),-clang)$(if $(MUTANTS),-mutants)$(if $(COVERAGE),-coverage)

PKGS := liburing libisal jansson yaml-0.1 blkid openssl libnbd
CFLAGS_COMMON := -std=gnu17 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wvla -Wno-unused-parameter -fno-common -D_GNU_SOURCE -I. \
	$(shell pkg-config --cflags $(PKGS) 2>/dev/null) $(if $(MUTANTS),-DQUARRY_MUTANTS)
OPT ?= -O2 -g
LDLIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread -lm

ifeq ($(SAN),address)
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -DQUARRY_CHECK_SLOW
else ifeq ($(SAN),fuzz)
# libFuzzer is clang's.
ifeq ($(filter clang%,$(CC)),)
override CC := clang
BUILD := build-fuzz
endif
SANFLAGS := -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all -fno-omit-frame-pointer
else ifeq ($(SAN),thread)
SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
endif
ifneq ($(COVERAGE),)
SANFLAGS += --coverage
OPT := -O1 -g
endif

CFLAGS_ALL := $(CFLAGS_COMMON) $(OPT) $(SANFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(SANFLAGS) $(LDFLAGS)

LIB_DIRS := core/base metadata core backends frontends/stream frontends/nbd frontends/admin frontends/scsi frontends/iscsi
LIB_SRCS := $(sort $(wildcard $(addsuffix /*.c,$(LIB_DIRS))))
LIB_OBJS := $(LIB_SRCS:%.c=$(BUILD)/obj/%.o)

TEST_SRCS := $(sort $(wildcard tests/unit/test_*.c))
TEST_BINS := $(TEST_SRCS:tests/unit/%.c=$(BUILD)/tests/%)
TEST_SUPPORT_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(TEST_SRCS),$(wildcard tests/unit/*.c)))

# What Debian 12 packages are needed for what; a package here is what `make deps…` installs.
DEPS_BUILD := gcc make pkg-config libc6-dev liburing-dev libisal-dev libjansson-dev libyaml-dev libblkid-dev libssl-dev libnbd-dev
DEPS_TEST := $(DEPS_BUILD) libcmocka-dev fio libnbd-bin python3 python3-libnbd qemu-utils e2fsprogs fdisk \
	nbdkit util-linux openssl fuse3 libiscsi-bin qemu-block-extra clang clang-format libclang-rt-14-dev shellcheck
DEPS_E2E := qemu-system-x86 cpio
DEPS_TIDY := clang-tidy
DEPS_BENCH := $(DEPS_BUILD) fio python3 qemu-utils nbd-server nbdkit libnbd-bin
# qemu-system-common has qemu-storage-daemon.  tgt is measured where it is, but not installed: its package starts
# a server that listens on all addresses.
DEPS_BENCH_FULL := $(DEPS_BENCH) qemu-system-common qemu-block-extra gnuplot-nox

prefix ?= /usr/local
sbindir ?= $(prefix)/sbin
bindir ?= $(prefix)/bin
mandir ?= $(prefix)/share/man
unitdir ?= $(prefix)/lib/systemd/system
completiondir ?= $(prefix)/share/bash-completion/completions
INSTALL ?= install

.DEFAULT_GOAL := all
.PHONY: all help run check unit integration e2e lint tidy bench bench-full install uninstall clean deps deps-test

all: $(BUILD)/quarryd $(BUILD)/quarry

help:
	@echo 'make                 build $(BUILD)/quarryd and $(BUILD)/quarry'
	@echo 'make run             install what is missing, build, start a demo pool and say what to try'
	@echo 'make check           install what the tests need, build, and run lint and all tests'
	@echo 'make unit            the unit tests alone'
	@echo 'make integration     the integration tests alone; TESTS="nbd crash" chooses some'
	@echo 'make e2e             Linux in a virtual machine as our client (minutes)'
	@echo 'make sim             the simulator; SEEDS=n'
	@echo 'make soak            the simulator with new seeds, for SECONDS=n'
	@echo 'make coverage        lines of core/ and metadata/ that unit tests and simulator reach; SEEDS=n'
	@echo 'make mutants         which of the planted bugs the simulator finds; MUTANT=name, SEEDS=n'
	@echo 'make fuzz            the fuzzers, SECONDS=n each; TARGET=name'
	@echo 'make lint            layers, licence lines, formatting, shell scripts'
	@echo 'make tidy            clang-tidy (minutes)'
	@echo 'make bench           compare with other servers on this machine (under 10 minutes)'
	@echo 'make bench-aged      what overwriting a pool costs that is 50 to 90 % full (a minute or two)'
	@echo 'make bench-iscsi     iSCSI beside tgt, with a libiscsi client (4 minutes)'
	@echo 'make bench-mapped    what a TiB costs of which every block is mapped (minutes, 14 GiB of memory)'
	@echo 'make bench-full      the same with more jobs, peers and rounds, and plots (hours); BENCHFLAGS=--help'
	@echo 'make bench-aged-latency  latency and throughput of a pool on a file that is 80 and 95 % full (minutes)'
	@echo 'make install         to $$(DESTDIR)$$(prefix), by default $(prefix); also make uninstall'
	@echo 'make deps            install the Debian packages that the build needs'
	@echo 'make deps-test       ... and those that the tests need'
	@echo 'make clean           remove build and build-*'
	@echo
	@echo 'SAN=address|thread builds with sanitizers, CC=clang with clang, each in a folder of its own.'

$(BUILD)/libquarry.a: $(LIB_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/quarryd: $(BUILD)/obj/tools/quarryd.o $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/quarryd_*.c)) $(BUILD)/libquarry.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LDLIBS)

$(BUILD)/quarry: $(BUILD)/obj/tools/quarry.o $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/quarry_*.c)) $(BUILD)/libquarry.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LDLIBS)

# An archive: a test gets what it uses of it, and may have fakes of the rest.
$(BUILD)/libsupport.a: $(TEST_SUPPORT_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/libsupport.a $(BUILD)/libquarry.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LDLIBS)

# A change of flags or compiler rebuilds; the file changes only when they do.
FLAGS_FILE := $(BUILD)/obj/.flags
FLAGS_NOW := $(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(LDLIBS)
$(FLAGS_FILE): FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' >$@
.PHONY: FORCE
FORCE:

$(BUILD)/obj/%.o: %.c $(FLAGS_FILE)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

.SECONDARY:

# --- tests ---

deps:
	@tools/install-debs.sh $(DEPS_BUILD)

deps-test:
	@tools/install-debs.sh $(DEPS_TEST)

# Packages first, then make once more: pkg-config is asked when make starts.
check: deps-test
	@$(MAKE) --no-print-directory all test-programs
	@$(if $(filter build,$(BUILD)),$(MAKE) --no-print-directory CC=clang build-clang/quarry-sim)
	@BUILD=$(BUILD) tests/check.sh

.PHONY: test-programs
test-programs: $(TEST_BINS) $(BUILD)/quarry-sim $(BUILD)/quarry-mapped

unit: $(TEST_BINS)
	@BUILD=$(BUILD) tests/check.sh unit

integration: all $(BUILD)/quarry-mapped
	@BUILD=$(BUILD) tests/check.sh integration $(TESTS)

e2e: all
	@tools/install-debs.sh $(DEPS_TEST) $(DEPS_E2E)
	@BUILD=$(BUILD) tests/check.sh e2e $(TESTS)

lint:
	@BUILD=$(BUILD) tests/check.sh lint

tidy:
	@tools/install-debs.sh $(DEPS_BUILD) $(DEPS_TIDY)
	@tests/lint/tidy.sh $(FILES)

bench bench-full:
	@tools/install-debs.sh $(if $(filter bench-full,$@),$(DEPS_BENCH_FULL),$(DEPS_BENCH))
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) /usr/bin/python3 tests/bench/bench.py $(if $(filter bench-full,$@),--full) $(BENCHFLAGS)

.PHONY: bench-aged bench-mapped bench-aged-latency bench-scale bench-iscsi
bench-iscsi: $(BUILD)/quarryd $(BUILD)/quarry
	@tools/install-debs.sh $(DEPS_BENCH) libiscsi-dev
	@$(MAKE) --no-print-directory $(BUILD)/iscsi-load
	@BUILD=$(BUILD) /usr/bin/python3 tests/bench/iscsi.py $(BENCHFLAGS)

$(BUILD)/iscsi-load: tests/bench/iscsi_load.c
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $< -liscsi

bench-scale: $(BUILD)/quarryd
	@BUILD=$(BUILD) /usr/bin/python3 tests/bench/scale.py $(BENCHFLAGS)

bench-aged-latency: $(BUILD)/quarryd $(BUILD)/quarry
	@BUILD=$(BUILD) /usr/bin/python3 tests/bench/aged_latency.py $(BENCHFLAGS)

bench-aged: $(BUILD)/quarry-aged
	$<

bench-mapped: $(BUILD)/quarry-mapped
	$< $(BENCHFLAGS)

$(BUILD)/quarry-aged: $(BUILD)/obj/tests/bench/aged.o
$(BUILD)/quarry-mapped: $(BUILD)/obj/tests/bench/mapped.o $(BUILD)/obj/tests/bench/forgetful.o
$(BUILD)/quarry-aged $(BUILD)/quarry-mapped: $(BUILD)/obj/tests/bench/engine.o $(BUILD)/libquarry.a
	$(CC) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) $(BUILD)/libquarry.a $(LDLIBS)

run: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tools/demo.sh

# --- the simulator: --wrap shows it what the log applies, and makes UUIDs follow from the seed ---

SIM_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/sim/*.c))
SEEDS ?= 2000

$(BUILD)/quarry-sim: $(SIM_OBJS) $(BUILD)/libquarry.a
	$(CC) $(LDFLAGS_ALL) -Wl,--wrap=uuid_new,--wrap=batch_apply,--wrap=log_start,--wrap=space_take,--wrap=space_seal_slab,--wrap=space_pack,--wrap=space_plug,--wrap=space_leave_out,--wrap=space_rejoin,--wrap=pool_fail,--wrap=log_reserve,--wrap=check_failed -o $@ $^ $(LDLIBS)

.PHONY: sim soak mutants coverage
sim: $(BUILD)/quarry-sim
	$< --seeds $(SEEDS)

# Seeds that nobody ran before: they begin where the clock is.
soak: $(BUILD)/quarry-sim
	$< --seconds $(SECONDS) --start $$(date +%s%6N)

coverage:
	@tools/install-debs.sh $(DEPS_TEST) lcov
	@$(MAKE) --no-print-directory COVERAGE=1 test-programs
	@BUILD=build-coverage SEEDS=$(filter-out 2000,$(SEEDS)) tests/coverage.sh

mutants:
	@$(MAKE) --no-print-directory MUTANTS=1 test-programs
	@BUILD=build-mutants MUTANT=$(MUTANT) SEEDS=$(filter-out 2000,$(SEEDS)) tests/mutants.sh

# --- fuzzing: `make fuzz SECONDS=60 TARGET=nbd`, without TARGET all of them ---

FUZZ_BINS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_TOOLS_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/quarry_*.c tools/quarryd_*.c))
SECONDS ?= 30

$(BUILD)/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(FUZZ_TOOLS_OBJS) $(BUILD)/libquarry.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

.PHONY: fuzz fuzz-programs
fuzz-programs: $(FUZZ_BINS)

fuzz:
	@$(MAKE) --no-print-directory SAN=fuzz fuzz-programs
	@BUILD=build-fuzz tests/fuzz/run.sh $(SECONDS) $(TARGET)

# --- installation ---

MAN_PAGES = $(wildcard docs/man/*.1 docs/man/*.5 docs/man/*.8)

install: all
	$(INSTALL) -d $(DESTDIR)$(sbindir) $(DESTDIR)$(bindir) $(DESTDIR)$(unitdir) $(DESTDIR)$(completiondir)
	$(INSTALL) -m 755 $(BUILD)/quarryd $(DESTDIR)$(sbindir)/quarryd
	$(INSTALL) -m 755 $(BUILD)/quarry $(DESTDIR)$(bindir)/quarry
	sed 's|@sbindir@|$(sbindir)|' tools/quarryd.service >$(DESTDIR)$(unitdir)/quarryd.service
	chmod 644 $(DESTDIR)$(unitdir)/quarryd.service
	$(INSTALL) -m 644 tools/quarry.bash-completion $(DESTDIR)$(completiondir)/quarry
	@for page in $(MAN_PAGES); do \
		dir=$(DESTDIR)$(mandir)/man$${page##*.}; \
		$(INSTALL) -d $$dir && $(INSTALL) -m 644 $$page $$dir/ || exit 1; \
	done

uninstall:
	rm -f $(DESTDIR)$(sbindir)/quarryd $(DESTDIR)$(bindir)/quarry
	rm -f $(DESTDIR)$(unitdir)/quarryd.service $(DESTDIR)$(completiondir)/quarry
	@for page in $(MAN_PAGES); do rm -f $(DESTDIR)$(mandir)/man$${page##*.}/$${page##*/}; done

clean:
	rm -rf build build-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
