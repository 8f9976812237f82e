/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Catalog blocks: records raw or with magic, id and CRC made right; then linked.  A catalog that is
 * accepted keeps its invariants and encodes to what is accepted again.
 */
#include "metadata/catalog.h"
#include "metadata/node.h"
#include "metadata/space.h"
#include "tests/fuzz/fuzz.h"

#define BLOCKS 2u
/* What a record needs of its 512 bytes; the rest is zeroes, so that inputs stay small. */
#define RECORD_BYTES offsetof(struct catalog_record, name)

static _Alignas(8) struct catalog_record records[BLOCKS][CATALOG_RECORDS_PER_BLOCK];

static void
take_record(struct fuzz_input *input, struct catalog_record *record, uint64_t id)
{
	uint8_t kind = fuzz_byte(input);

	memset(record, 0, sizeof(*record));
	if (!(kind & 1))
		return; /* an empty place */
	fuzz_take(input, record, RECORD_BYTES);
	fuzz_take(input, record->name, kind >> 4);
	if (kind & 2) {
		record->magic = CATALOG_RECORD_MAGIC;
		record->id = id;
		record->parent %= BLOCKS * CATALOG_RECORDS_PER_BLOCK;
		record->volume %= BLOCKS * CATALOG_RECORDS_PER_BLOCK;
		record->head %= BLOCKS * CATALOG_RECORDS_PER_BLOCK;
		catalog_seal_record(record);
	}
}

static bool
decode(struct catalog *catalog)
{
	struct error error;

	catalog->next_id = BLOCKS * CATALOG_RECORDS_PER_BLOCK;
	for (unsigned i = 0; i < BLOCKS; i++)
		if (catalog_decode_block(catalog, i, records[i], &error))
			return false;
	return catalog_link(catalog, &error) == 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	struct space space;
	struct nodes nodes;
	struct catalog catalog;

	for (unsigned i = 0; i < BLOCKS; i++)
		for (unsigned j = 0; j < CATALOG_RECORDS_PER_BLOCK; j++)
			take_record(&input, &records[i][j], i * CATALOG_RECORDS_PER_BLOCK + j);
	space_init(&space, 64, 1);
	nodes_init(&nodes, &space, 1 * MIB);
	catalog_init(&catalog, &nodes);
	if (decode(&catalog)) {
		CHECK(catalog_invariant(&catalog));
		for (unsigned i = 0; i < BLOCKS; i++)
			catalog_encode_block(&catalog, i, records[i]);
		catalog_fini(&catalog);
		catalog_init(&catalog, &nodes);
		CHECK(decode(&catalog));
	}
	catalog_fini(&catalog);
	nodes_fini(&nodes);
	space_fini(&space);
	return 0;
}
