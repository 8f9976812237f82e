# Quarry: build, run and test.  `make help` lists the targets.
#
#   SAN=address|thread   sanitizers (address: ASan and UBSan), built in a folder of its own
#   CC=gcc|clang         either works

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=
BUILD := build$(if $(SAN),-$(SAN))$(if $(filter clang%,$(CC)),-clang)

PKGS := liburing libisal jansson yaml-0.1 blkid
CFLAGS_COMMON := -std=gnu17 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wvla -Wno-unused-parameter -fno-common -D_GNU_SOURCE -I. \
	$(shell pkg-config --cflags $(PKGS) 2>/dev/null)
OPT ?= -O2 -g
LDLIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lpthread

ifeq ($(SAN),address)
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -DQUARRY_CHECK_SLOW
else ifeq ($(SAN),thread)
SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
endif

CFLAGS_ALL := $(CFLAGS_COMMON) $(OPT) $(SANFLAGS) $(CFLAGS)
LDFLAGS_ALL := $(SANFLAGS) $(LDFLAGS)

LIB_DIRS := core/base metadata core backends frontends/nbd frontends/admin
LIB_SRCS := $(sort $(wildcard $(addsuffix /*.c,$(LIB_DIRS))))
LIB_OBJS := $(LIB_SRCS:%.c=$(BUILD)/obj/%.o)

TEST_SRCS := $(sort $(wildcard tests/unit/test_*.c))
TEST_BINS := $(TEST_SRCS:tests/unit/%.c=$(BUILD)/tests/%)
TEST_SUPPORT_OBJS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(TEST_SRCS),$(wildcard tests/unit/*.c)))

.PHONY: all clean
all: $(BUILD)/quarryd $(BUILD)/quarry

$(BUILD)/libquarry.a: $(LIB_OBJS)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/quarryd: $(BUILD)/obj/tools/quarryd.o $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/quarryd_*.c)) $(BUILD)/libquarry.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LDLIBS)

$(BUILD)/quarry: $(BUILD)/obj/tools/quarry.o $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/quarry_*.c)) $(BUILD)/libquarry.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(TEST_SUPPORT_OBJS) $(BUILD)/libquarry.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LDLIBS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

.PHONY: unit
unit: $(TEST_BINS)
	@for t in $(TEST_BINS); do echo "== $$t"; $$t || exit 1; done

clean:
	rm -rf build build-*

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
