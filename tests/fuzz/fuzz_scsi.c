/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SCSI CDBs.  Whatever is accepted sets no bit that its command does not define, names blocks that
 * exist, and moves no more than one transfer may; whatever is refused has sense data in either
 * form.
 */
#include <stdlib.h>

#include "frontends/scsi/scsi_cdb.h"
#include "metadata/format.h"
#include "tests/fuzz/fuzz.h"

static void
accepted(const struct scsi_cdb *cdb, const struct scsi_geometry *geometry)
{
	static uint8_t answer[SCSI_OPCODES_BYTES_MAX];
	const struct scsi_command *command = cdb->command;
	struct scsi_sense sense;
	size_t len_bytes = 0;

	CHECK(cdb->bytes[0] == command->opcode);
	for (unsigned i = 1; i < command->cdb_bytes; i++)
		CHECK((cdb->bytes[i] & ~command->usage[i]) == 0);
	if (geometry && command->lba_bytes && command->lba_must_exist)
		CHECK(cdb->lba < geometry->blocks);
	CHECK(cdb->data_out_bytes <= SCSI_TRANSFER_BYTES_MAX);
	if (command->opcode == 0xa3 && command->service_action == 0x0c &&
	    scsi_report_opcodes(cdb, answer, &len_bytes, &sense))
		CHECK(len_bytes <= sizeof(answer));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	uint8_t kind = fuzz_byte(&input);
	struct scsi_geometry geometry = { .block_bytes = kind & 1 ? 4096 : 512 };
	const struct scsi_geometry *given = kind & 2 ? &geometry : NULL;
	uint8_t encoded[SCSI_SENSE_BYTES_MAX];
	uint8_t *bytes = xmalloc(input.left + 1); /* so that reading beyond is seen */
	struct scsi_cdb cdb;
	struct scsi_sense sense;
	size_t len_bytes;

	fuzz_take(&input, &geometry.blocks, sizeof(geometry.blocks));
	geometry.blocks %= VOLUME_BYTES_MAX / 512;
	geometry.blocks++;
	len_bytes = input.left;
	fuzz_take(&input, bytes, len_bytes);
	if (scsi_cdb_parse(&cdb, bytes, len_bytes, given, &sense)) {
		accepted(&cdb, given);
	} else {
		CHECK(sense.key && scsi_sense_encode(&sense, false, encoded) <= sizeof(encoded));
		CHECK(scsi_sense_encode(&sense, true, encoded) <= sizeof(encoded));
	}
	free(bytes);
	return 0;
}
