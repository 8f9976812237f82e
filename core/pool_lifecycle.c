/* SPDX-License-Identifier: Apache-2.0 */
#include "core/pool_lifecycle.h"

static void
writer_step(struct device_io *io)
{
	struct block_writer *writer = container_of(io, struct block_writer, io);

	if (io->error) {
		writer->error = io->error;
		writer->done(writer);
		return;
	}
	if (writer->next > writer->count) {
		writer->done(writer);
		return;
	}
	memset(io, 0, sizeof(*io));
	io->done = writer_step;
	if (writer->next == writer->count) {
		writer->next++;
		io->op = DEVICE_FLUSH;
	} else {
		writer->iov.iov_base = writer->blocks[writer->next].data;
		writer->iov.iov_len = FORMAT_BLOCK_BYTES;
		io->op = DEVICE_WRITE;
		io->offset_bytes = writer->blocks[writer->next].block * FORMAT_BLOCK_BYTES;
		io->len_bytes = FORMAT_BLOCK_BYTES;
		io->iov = &writer->iov;
		io->iov_count = 1;
		writer->next++;
	}
	device_submit(writer->device, io);
}

void
block_writer_add(struct block_writer *writer, uint64_t block, void *data)
{
	CHECK(writer->count < ARRAY_SIZE(writer->blocks));
	writer->blocks[writer->count].block = block;
	writer->blocks[writer->count].data = data;
	writer->count++;
}

void
block_writer_start(struct block_writer *writer, struct device *device)
{
	writer->device = device;
	writer->error = 0;
	writer->next = 0;
	writer->io.error = 0;
	writer_step(&writer->io);
}

static void
read_done(struct device_io *io)
{
	struct block_reader *reader = container_of(io, struct block_reader, io);

	reader->error = io->error;
	reader->done(reader);
}

void
block_reader_start(
    struct block_reader *reader, struct device *device, uint64_t block, uint64_t count, void *data)
{
	struct device_io *io = &reader->io;

	memset(io, 0, sizeof(*io));
	reader->error = 0;
	reader->iov.iov_base = data;
	reader->iov.iov_len = count * FORMAT_BLOCK_BYTES;
	io->op = DEVICE_READ;
	io->offset_bytes = block * FORMAT_BLOCK_BYTES;
	io->len_bytes = count * FORMAT_BLOCK_BYTES;
	io->iov = &reader->iov;
	io->iov_count = 1;
	io->done = read_done;
	device_submit(device, io);
}
