/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of JSON objects as aligned text: columns are chosen, sorted and formatted here. */
#include "tools/quarry.h"

#include <stdlib.h>

#include "core/base/size.h"

enum {
	CELL_SIZE = 512,
	COLUMNS_MAX = 32,
	INDENT = 2
};

static const struct column *
column_find(const struct table *table, const char *name, size_t len)
{
	for (size_t i = 0; i < table->column_count; i++)
		if (strlen(table->columns[i].name) == len &&
		    memcmp(table->columns[i].name, name, len) == 0)
			return &table->columns[i];
	return NULL;
}

/* The columns that @list names; -1: one of them does not exist, and *list is at it. */
static int
parse_columns(
    const struct table *table, const char **list, const struct column *chosen[COLUMNS_MAX])
{
	int count = 0;

	for (;;) {
		size_t len = strcspn(*list, ",");
		const struct column *column = column_find(table, *list, len);

		if (!column || count == COLUMNS_MAX)
			return -1;
		chosen[count++] = column;
		if (!(*list)[len])
			return count;
		*list += len + 1;
	}
}

int
table_check_columns(const struct table *table, const char *list, struct error *error)
{
	const struct column *chosen[COLUMNS_MAX];
	char known[200];
	size_t len = 0;

	if (parse_columns(table, &list, chosen) >= 0)
		return 0;
	for (size_t i = 0; i < table->column_count && len < sizeof(known); i++)
		len += (size_t)snprintf(
		    known + len, sizeof(known) - len, "%s%s", i ? "," : "", table->columns[i].name);
	return error_set(error, -EINVAL, "there is no column \"%.*s\"; there are: %s",
	    (int)min_u64(strcspn(list, ","), 40), list, known);
}

static int
default_columns(const struct table *table, const struct column *chosen[COLUMNS_MAX])
{
	int count = 0;

	for (size_t i = 0; i < table->column_count; i++)
		if (table->columns[i].shown)
			chosen[count++] = &table->columns[i];
	return count;
}

static bool
is_right_aligned(const struct column *column)
{
	return column->type == COLUMN_SIZE || column->type == COLUMN_NUMBER ||
	       column->type == COLUMN_LENGTH;
}

static void
progress_cell(const struct column *column, const json_t *row, bool exact, char text[CELL_SIZE])
{
	char key[64];
	json_int_t count = json_integer_value(json_object_get(row, column->json_key));
	json_int_t permille;

	snprintf(key, sizeof(key), "%s_done_permille", column->json_key);
	permille = json_integer_value(json_object_get(row, key));
	if (exact)
		snprintf(text, CELL_SIZE, "%lld", (long long)count);
	else if (count == 0)
		strcpy(text, "-");
	else
		snprintf(text, CELL_SIZE, "%lld (%lld.%lld%%)", (long long)count,
		    (long long)permille / 10, (long long)permille % 10);
}

static void
words_cell(const json_t *words, char text[CELL_SIZE])
{
	const json_t *word;
	size_t at = 0, i;

	strcpy(text, json_array_size(words) ? "" : "-");
	json_array_foreach(words, i, word)
	{
		at += (size_t)snprintf(
		    text + at, CELL_SIZE - at, "%s%s", i ? "," : "", json_string_value(word));
		if (at >= CELL_SIZE)
			return;
	}
}

static void
cell(const struct column *column, const json_t *row, bool exact, char text[CELL_SIZE])
{
	const json_t *value = json_object_get(row, column->json_key);

	if (!value || json_is_null(value)) {
		strcpy(text, "-");
		return;
	}
	switch (column->type) {
	case COLUMN_TEXT:
		snprintf(
		    text, CELL_SIZE, "%s", json_is_string(value) ? json_string_value(value) : "?");
		return;
	case COLUMN_SIZE:
		if (!exact) {
			size_format((uint64_t)json_integer_value(value), text);
			return;
		}
		/* fall through */
	case COLUMN_NUMBER:
		snprintf(text, CELL_SIZE, "%lld", (long long)json_integer_value(value));
		return;
	case COLUMN_FLAG:
		strcpy(text, json_is_true(value) ? "on" : "off");
		return;
	case COLUMN_HOLE:
		strcpy(text, json_is_true(value) ? "hole" : "data");
		return;
	case COLUMN_PROGRESS:
		progress_cell(column, row, exact, text);
		return;
	case COLUMN_LENGTH:
		snprintf(text, CELL_SIZE, "%zu", json_array_size(value));
		return;
	case COLUMN_WORDS:
		words_cell(value, text);
		return;
	}
}

/* --- sorting --- */

struct sorted_row {
	const json_t *row;
	size_t index; /* equals stay in their order */
};

struct sort_order {
	const struct column *column;
	bool descending;
};

static int
compare_values(const struct column *column, const json_t *a, const json_t *b)
{
	long long x, y;

	if (!a || !b || json_is_null(a) || json_is_null(b))
		return (a && !json_is_null(a)) - (b && !json_is_null(b));
	if (json_is_string(a) && json_is_string(b))
		return strverscmp(json_string_value(a), json_string_value(b));
	if (column->type == COLUMN_LENGTH) {
		x = (long long)json_array_size(a);
		y = (long long)json_array_size(b);
	} else {
		x = json_is_boolean(a) ? json_is_true(a) : json_integer_value(a);
		y = json_is_boolean(b) ? json_is_true(b) : json_integer_value(b);
	}
	return (x > y) - (x < y);
}

static int
compare_rows(const void *left, const void *right, void *context)
{
	const struct sorted_row *a = left, *b = right;
	const struct sort_order *order = context;
	int sign = compare_values(order->column, json_object_get(a->row, order->column->json_key),
	    json_object_get(b->row, order->column->json_key));

	if (sign)
		return order->descending ? -sign : sign;
	return (a->index > b->index) - (a->index < b->index);
}

static struct sorted_row *
sort_rows(const struct table *table, const json_t *rows, const struct cli *cli)
{
	struct sorted_row *sorted = xcalloc(json_array_size(rows), sizeof(*sorted));
	const json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		sorted[i].row = row;
		sorted[i].index = i;
	}
	if (cli->sort) {
		struct sort_order order = {
			.column = column_find(table, cli->sort, strlen(cli->sort)),
			.descending = cli->options & OPTION_SORT_DESCENDING,
		};

		CHECK(order.column); /* the command line was checked */
		qsort_r(sorted, json_array_size(rows), sizeof(*sorted), compare_rows, &order);
	}
	return sorted;
}

/* --- printing --- */

/* How far a row's first cell is moved right. */
static int
indent_of(const json_t *row, const struct cli *cli)
{
	if (cli->sort || (cli->options & OPTION_NO_HEADER))
		return 0;
	return INDENT * (int)json_integer_value(json_object_get(row, "depth"));
}

static void
upper(const char *text, char *to)
{
	for (; *text; text++)
		*to++ = *text >= 'a' && *text <= 'z' ? (char)(*text - 'a' + 'A') : *text;
	*to = '\0';
}

static void
print_cell(
    FILE *out, const struct column *column, const char *text, int indent, int width, bool last)
{
	if (is_right_aligned(column))
		fprintf(out, "%*s", width, text);
	else if (last)
		fprintf(out, "%*s%s", indent, "", text);
	else
		fprintf(out, "%*s%-*s", indent, "", width - indent, text);
	fputs(last ? "\n" : "  ", out);
}

static void
print_tabbed(FILE *out, const struct column **columns, int count, const struct sorted_row *sorted,
    size_t row_count, bool exact)
{
	char text[CELL_SIZE];

	for (size_t i = 0; i < row_count; i++) {
		for (int c = 0; c < count; c++) {
			cell(columns[c], sorted[i].row, exact, text);
			fprintf(out, "%s%s", text, c + 1 < count ? "\t" : "\n");
		}
	}
}

static void
print_aligned(FILE *out, const struct column **columns, int count, const struct sorted_row *sorted,
    size_t row_count, const struct cli *cli)
{
	bool exact = cli->options & OPTION_EXACT;
	int widths[COLUMNS_MAX];
	char text[CELL_SIZE];

	for (int c = 0; c < count; c++) {
		widths[c] = (int)strlen(columns[c]->name);
		for (size_t i = 0; i < row_count; i++) {
			int width;

			cell(columns[c], sorted[i].row, exact, text);
			width = (int)strlen(text) + (c == 0 ? indent_of(sorted[i].row, cli) : 0);
			if (width > widths[c])
				widths[c] = width;
		}
	}
	for (int c = 0; c < count; c++) {
		upper(columns[c]->name, text);
		print_cell(out, columns[c], text, 0, widths[c], c + 1 == count);
	}
	for (size_t i = 0; i < row_count; i++) {
		for (int c = 0; c < count; c++) {
			cell(columns[c], sorted[i].row, exact, text);
			print_cell(out, columns[c], text,
			    c == 0 ? indent_of(sorted[i].row, cli) : 0, widths[c], c + 1 == count);
		}
	}
}

void
table_print(FILE *out, const struct table *table, const json_t *rows, const struct cli *cli)
{
	const struct column *columns[COLUMNS_MAX];
	const char *list = cli->columns;
	int count = list ? parse_columns(table, &list, columns) : default_columns(table, columns);
	struct sorted_row *sorted = sort_rows(table, rows, cli);

	CHECK(count > 0);
	if (cli->options & OPTION_NO_HEADER)
		print_tabbed(out, columns, count, sorted, json_array_size(rows),
		    cli->options & OPTION_EXACT);
	else
		print_aligned(out, columns, count, sorted, json_array_size(rows), cli);
	free(sorted);
}
