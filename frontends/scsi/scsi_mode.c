/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MODE SENSE, MODE SELECT and LOG SENSE.
 *
 * Pages are built from the unit's flags; beside each page stands what of it may be changed.  A MODE
 * SELECT is checked as a whole before anything of it takes effect.
 */
#include "frontends/scsi/scsi_internal.h"

enum {
	PAGE_CACHING = 0x08,
	PAGE_CONTROL = 0x0a,
	PAGE_EXCEPTIONS = 0x1c,
	PAGE_ALL = 0x3f,
	CONTROL_CURRENT = 0,
	CONTROL_CHANGEABLE = 1,
	CONTROL_DEFAULT = 2,
	CONTROL_SAVED = 3,
	PAGE_BYTES_MAX = 20,
	ANSWER_BYTES_MAX = 128,
};

#define ASC_SAVING_NOT_SUPPORTED ((enum scsi_asc)0x3900)

static const struct mode_page {
	uint8_t code;
	uint8_t len_bytes;
	uint8_t defaults[PAGE_BYTES_MAX];
	uint8_t changeable[PAGE_BYTES_MAX];
} mode_pages[] = {
	{ PAGE_CACHING, 20, { PAGE_CACHING, 18, 0x04 /* WCE */ }, { PAGE_CACHING, 18 } },
	{ PAGE_CONTROL, 12, { PAGE_CONTROL, 10, 0x00, 0x10 /* reorders freely */ },
	    { PAGE_CONTROL, 10, 0x04 /* D_SENSE */, 0, 0x08 /* SWP */ } },
	{ PAGE_EXCEPTIONS, 12, { PAGE_EXCEPTIONS, 10, 0x08 /* DEXCPT */ },
	    { PAGE_EXCEPTIONS, 10 } },
};

static void
page_current(const struct scsi_unit *unit, const struct mode_page *page, uint8_t *bytes)
{
	memcpy(bytes, page->defaults, page->len_bytes);
	if (page->code == PAGE_CONTROL) {
		bytes[2] |= unit->descriptor_sense ? 0x04 : 0;
		bytes[4] |= unit->write_protect ? 0x08 : 0;
	}
}

static size_t
put_page(const struct scsi_task *task, const struct mode_page *page, unsigned control, uint8_t *at)
{
	if (control == CONTROL_CHANGEABLE)
		memcpy(at, page->changeable, page->len_bytes);
	else if (control == CONTROL_DEFAULT)
		memcpy(at, page->defaults, page->len_bytes);
	else
		page_current(task->unit, page, at);
	return page->len_bytes;
}

static size_t
put_block_descriptor(const struct scsi_unit *unit, bool is_long, uint8_t *at)
{
	if (is_long) {
		put_be64(at, scsi_blocks(unit));
		put_be32(at + 12, unit->block_bytes);
		return 16;
	}
	put_be32(at, min_u64(scsi_blocks(unit), UINT32_MAX));
	put_be32(at + 4, unit->block_bytes);
	return 8;
}

void
scsi_run_mode_sense(struct scsi_task *task)
{
	const uint8_t *cdb = task->parsed.bytes;
	bool ten = task->parsed.command->cdb_bytes == 10;
	bool with_descriptor = !(cdb[1] & 0x08);
	bool is_long = ten && cdb[1] & 0x10;
	unsigned control = cdb[2] >> 6;
	uint8_t code = cdb[2] & 0x3f;
	uint8_t subpage = cdb[3];
	uint8_t answer[ANSWER_BYTES_MAX] = { 0 };
	uint8_t flags = (uint8_t)(0x10 | (scsi_unit_readonly(task->nexus) ? 0x80 : 0));
	size_t at = ten ? 8 : 4;
	bool found = false;

	if (control == CONTROL_SAVED)
		return scsi_check_condition(task, SCSI_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
	if (with_descriptor) {
		size_t len_bytes = put_block_descriptor(task->unit, is_long, answer + at);

		answer[ten ? 7 : 3] = (uint8_t)len_bytes;
		at += len_bytes;
	}
	for (size_t i = 0; i < ARRAY_SIZE(mode_pages); i++) {
		if (code != PAGE_ALL && code != mode_pages[i].code)
			continue;
		if (subpage != 0 && subpage != 0xff)
			continue;
		found = true;
		at += put_page(task, &mode_pages[i], control, answer + at);
	}
	if (!found)
		return scsi_refuse_cdb(task, subpage ? 3 : 2, subpage ? 8 : 5);
	if (ten) {
		put_be16(answer, at - 2);
		answer[3] = flags;
		answer[4] = is_long ? 0x01 : 0;
	} else {
		answer[0] = (uint8_t)(at - 1);
		answer[2] = flags;
	}
	scsi_answer_bytes(task, answer, at);
}

/* --- MODE SELECT --- */

/* Applies one page, or only checks it; false: @wrong is the byte in it. */
static bool
select_page(struct scsi_unit *unit, const uint8_t *bytes, bool apply, size_t *wrong)
{
	for (size_t i = 0; i < ARRAY_SIZE(mode_pages); i++) {
		const struct mode_page *page = &mode_pages[i];
		uint8_t current[PAGE_BYTES_MAX];

		if (page->code != bytes[0])
			continue;
		page_current(unit, page, current);
		for (size_t k = 1; k < page->len_bytes; k++) {
			*wrong = k;
			if (k == 1 ? bytes[1] != page->len_bytes - 2
				   : (bytes[k] ^ current[k]) & (uint8_t)~page->changeable[k])
				return false;
		}
		if (apply && page->code == PAGE_CONTROL) {
			unit->descriptor_sense = bytes[2] & 0x04;
			unit->write_protect = bytes[4] & 0x08;
		}
		return true;
	}
	*wrong = 0;
	return false;
}

static void
select_pages(struct scsi_task *task, const uint8_t *list, size_t at, size_t len_bytes)
{
	for (int apply = 0; apply < 2; apply++) {
		for (size_t i = at; i < len_bytes; i += 2 + (size_t)list[i + 1]) {
			size_t wrong;

			if (len_bytes - i < 2 || len_bytes - i < 2 + (size_t)list[i + 1])
				return scsi_check_condition(
				    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
			/* Longer than any page of ours is wrong before it is looked at. */
			if (list[i + 1] > PAGE_BYTES_MAX - 2)
				return scsi_refuse_parameter(task, (uint16_t)(i + 1), 8);
			uint8_t page[PAGE_BYTES_MAX] = { 0 };

			memcpy(page, list + i, 2 + (size_t)list[i + 1]);
			if (!select_page(task->unit, page, apply, &wrong))
				return scsi_refuse_parameter(task, (uint16_t)(i + wrong), 8);
		}
	}
	scsi_attention_all(task->unit, task->nexus, SCSI_ASC_MODE_PARAMETERS_CHANGED);
	scsi_good(task);
}

void
scsi_run_mode_select(struct scsi_task *task)
{
	bool ten = task->parsed.command->cdb_bytes == 10;
	size_t header_bytes = ten ? 8 : 4;
	size_t len_bytes = task->data_out.len_bytes;
	const uint8_t *list = scsi_payload(&task->data_out);
	size_t descriptor_bytes;

	if (!(task->parsed.bytes[1] & 0x10)) /* PF: pages as the standard has them */
		return scsi_refuse_cdb(task, 1, 4);
	if (task->parsed.bytes[1] & 0x01)
		return scsi_refuse_cdb(task, 1, 0);
	if (len_bytes == 0)
		return scsi_good(task);
	if (len_bytes < header_bytes)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	descriptor_bytes = ten ? read_be(list + 6, 2) : list[3];
	if (descriptor_bytes > len_bytes - header_bytes)
		return scsi_check_condition(
		    task, SCSI_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
	if (descriptor_bytes != 0 && descriptor_bytes != 8 && descriptor_bytes != 16)
		return scsi_refuse_parameter(task, ten ? 6 : 3, 8);
	if (descriptor_bytes) { /* only to keep the length of a block is fine */
		const uint8_t *block = list + header_bytes + descriptor_bytes - 4;
		uint64_t block_bytes =
		    read_be(block, 4) & (descriptor_bytes == 8 ? 0xffffff : ~0ull);

		if (block_bytes != task->unit->block_bytes)
			return scsi_refuse_parameter(task, (uint16_t)(block - list), 8);
	}
	select_pages(task, list, header_bytes + descriptor_bytes, len_bytes);
}

/* --- LOG SENSE: which pages there are, and nothing that has gone wrong --- */

void
scsi_run_log_sense(struct scsi_task *task)
{
	const uint8_t *cdb = task->parsed.bytes;
	uint8_t code = cdb[2] & 0x3f;
	uint8_t answer[16] = { 0 };

	if (cdb[1] & 0x01)
		return scsi_refuse_cdb(task, 1, 0);
	if (cdb[3] != 0)
		return scsi_refuse_cdb(task, 3, 8);
	answer[0] = code;
	if (code == 0x00) {
		answer[3] = 2;
		answer[5] = 0x2f;
		return scsi_answer_bytes(task, answer, 6);
	}
	if (code != 0x2f)
		return scsi_refuse_cdb(task, 2, 5);
	answer[3] = 8; /* one parameter: no informational exception, no temperature */
	answer[6] = 0x03;
	answer[7] = 4;
	answer[10] = 0xff;
	scsi_answer_bytes(task, answer, 12);
}
