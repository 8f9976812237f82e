/* SPDX-License-Identifier: Apache-2.0 */
/* Reservations as a pool's note has them: what is accepted is sound, and the same when it is
 * written and read again. */
#include <stdlib.h>

#include "metadata/reservation.h"
#include "tests/fuzz/fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reservation reservation, again;
	size_t len_bytes;
	uint8_t *bytes;

	if (reservation_decode(&reservation, data, size))
		return 0;
	CHECK(reservation_invariant(&reservation) && !reservation_is_empty(&reservation));
	bytes = reservation_encode(&reservation, &len_bytes);
	CHECK(len_bytes == size && memcmp(bytes, data, size) == 0);
	CHECK(reservation_decode(&again, bytes, len_bytes) == 0);
	CHECK(memcmp(&again, &reservation, sizeof(again)) == 0);
	free(bytes);
	return 0;
}
