/* Writes arguments and results of glibc's functions, as bits, for libm_test.go:
 *   gcc -O2 -fno-builtin -o glibc glibc.c -lm && ./glibc > glibc.txt
 * on a processor with fused multiply-add. */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t state = 1;

static uint64_t next(void) {
	state = state * 6364136223846793005u + 1442695040888963407u;
	return state >> 33 | state << 31;
}

static double unit(void) { return (double)(next() >> 11) * 0x1p-53; }

static void wide(const char *name, double (*f)(double), double x) {
	double y = f(x);
	uint64_t in, out;
	memcpy(&in, &x, 8);
	memcpy(&out, &y, 8);
	printf("%s %016" PRIx64 " %016" PRIx64 "\n", name, in, out);
}

static void narrow(const char *name, float (*f)(float), float x) {
	float y = f(x);
	uint32_t in, out;
	memcpy(&in, &x, 4);
	memcpy(&out, &y, 4);
	printf("%s %08" PRIx32 " %08" PRIx32 "\n", name, in, out);
}

int main(void) {
	const double edges[] = {0, -0.0, 1, -1, 0x1p-54, -0x1p-55, 5e-324, 1e-310, 1e300, -1e300, INFINITY, -INFINITY, 512, -512, 709.78, 709.79, -708.3, -708.4,
		-745.13, -745.14, 1023.99, 1024, -1021.5, -1022.5, -1074.9, -1075};
	for (unsigned i = 0; i < sizeof edges / sizeof *edges; i++) {
		wide("exp", exp, edges[i]);
		wide("exp2", exp2, edges[i]);
		narrow("expf", expf, (float)edges[i]);
		narrow("logf", logf, fabsf((float)edges[i]));
	}
	narrow("expf", expf, 0x1.04845ep+05f);
	narrow("expf", expf, -0x1.f8cbb2p+05f);
	narrow("expf", expf, 88.72284f);
	narrow("expf", expf, -103.97f);
	for (int i = 0; i < 400; i++) {
		wide("exp", exp, (unit() - .5) * 40);
		wide("exp", exp, (unit() - .5) * 1500);
		wide("exp2", exp2, (unit() - .5) * 40);
		wide("exp2", exp2, (unit() - .5) * 2150);
		narrow("expf", expf, (float)((unit() - .5) * 40));
		narrow("expf", expf, (float)((unit() - .5) * 210));
		narrow("logf", logf, (float)unit());
		uint32_t bits = (uint32_t)next() & 0x7fffffff;
		float x;
		memcpy(&x, &bits, 4);
		if (x == x)
			narrow("logf", logf, x);
	}
	return 0;
}
