"""Reading machine code and triton's intermediate code, on excerpts."""

from fastnst_kernels.disassembly import Code, accesses_by_argument, products, read_amdgcn, sites, true_lines

TTIR = """#loc = loc("/somewhere/kernels.py":10:1)
#loc1 = loc("features"(#loc))
module {
  tt.func public @k(%features: !tt.ptr<f16> {tt.divisibility = 16 : i32} loc("features"(#loc)), \
%bits: !tt.ptr<i32> loc("bits"(#loc)), %out: !tt.ptr<f16> loc("out"(#loc)), %C: i32 loc("C"(#loc))) {
    %base = tt.addptr %features, %offset : !tt.ptr<f16>, i32 loc(#loc1)
    %sums:2 = scf.for %i = %c0 to %C step %c64 iter_args(%p = %base, %acc = %zero) \
-> (!tt.ptr<f16>, tensor<64x64xf32>)  : i32 {
      %tile = tt.splat %p : !tt.ptr<f16> -> tensor<64x32x!tt.ptr<f16>> loc(#loc1)
      %where = tt.addptr %tile, %offsets : tensor<64x32x!tt.ptr<f16>>, tensor<64x32xi32> loc(#loc1)
      %x = tt.load %where, %mask, %other : tensor<64x32x!tt.ptr<f16>> loc(#loc12)
      %y = tt.dot %x, %xt, %acc : tensor<64x32xf16> * tensor<32x128xf16> -> tensor<64x128xf32> loc(#loc1)
      %next = tt.addptr %p, %c64 : !tt.ptr<f16>, i32 loc(#loc1)
      scf.yield %next, %y : !tt.ptr<f16>, tensor<64x64xf32> loc(#loc1)
    } loc(#loc1)
    %last = tt.load %sums#0 : !tt.ptr<f16> loc(#loc13)
    %b = tt.load %bits : !tt.ptr<i32> loc(#loc13)
    %to = tt.splat %out : !tt.ptr<f16> -> tensor<64x32x!tt.ptr<f16>> loc(#loc1)
    tt.store %to, %z, %mask : tensor<64x32x!tt.ptr<f16>> loc(#loc16)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
#loc11 = loc("/somewhere/kernels.py":11:3)
#loc12 = loc("x"(#loc11))
#loc13 = loc("/somewhere/kernels.py":13:3)
#loc14 = loc("/somewhere/helpers.py":5:3)
#loc15 = loc("/somewhere/kernels.py":15:3)
#loc16 = loc(callsite(#loc14 at #loc15))
"""

AMDGCN = """
	.loc	1 11 5                         ; kernels.py:11:5
	buffer_load_dwordx4 v[2:5], v6, s[4:7], 0 offen
	.loc	1 13 5 is_stmt 0               ; kernels.py:13:5
	global_load_ushort v6, v[4:5], off
	s_mov_b32 s0, 0
	v_mfma_f32_32x32x8_f16 a[0:15], v[2:3], v[4:5], a[0:15]
	v_mfma_f32_32x32x8_f16 a[0:15], v[2:3], v[4:5], a[0:15]
	.loc	2 5 3                          ; helpers.py:5:3 @[ kernels.py:15:3 ]
	global_store_b64 v[4:5], v[0:1], off
    .vgpr_count:     102
    .vgpr_spill_count: 3
"""


def test_pointers_are_followed_through_loops_and_calls() -> None:
    found = [(site.argument, site.store, site.elements, site.line, site.alone) for site in sites(TTIR)]
    assert found == [
        ("bits", False, 1, ("kernels.py", 13), False),
        ("features", False, 2048, ("kernels.py", 11), True),
        ("features", False, 1, ("kernels.py", 13), False),
        ("out", True, 2048, ("helpers.py", 5), True),
    ]


def test_lines_of_inline_assembly() -> None:
    ptx = """
	.loc	1 14 9                          // kernels.py:14:9
	// begin inline asm
	.loc	1 14 9                          // kernels.py:14:9
	mov.u32 %r1, 0x0;
	.loc	1 15 9                          // kernels.py:15:9
	@%p1 ld.global.b32 { %r1 }, [ %rd1 + 0 ];

	// end inline asm
	.loc	1 15 14                         // kernels.py:15:14
	add.s64 	%rd2, %rd4, %rd5;
	// begin inline asm
	st.global.v4.b32 [ %rd2 + 0 ], { %r1, %r2, %r3, %r4 };
	// end inline asm
"""
    assert true_lines(ptx) == {("kernels.py", 15): {("kernels.py", 14), ("kernels.py", 15)}}


def test_products() -> None:
    (product,) = products(TTIR)
    assert (product.rows, product.depth, product.columns, product.dtype) == (64, 32, 128, "f16")


def test_assembly_of_amd() -> None:
    code = read_amdgcn(AMDGCN)
    assert (code.registers, code.spills) == (102, 3)
    assert code.matrix_instructions == {"v_mfma_f32_32x32x8_f16": 2}
    assert [(one.mnemonic, one.store, one.width, one.lines) for one in code.accesses] == [
        ("buffer_load_dwordx4", False, 16, (("kernels.py", 11),)),
        ("global_load_ushort", False, 2, (("kernels.py", 13),)),
        ("global_store_b64", True, 8, (("helpers.py", 5),)),
    ]


def test_instructions_belong_to_arguments() -> None:
    code: Code = read_amdgcn(AMDGCN)
    by_argument = {
        key: [one.width for _, instructions in accesses for one in instructions]
        for key, accesses in accesses_by_argument(sites(TTIR), code).items()
    }
    assert by_argument == {("bits", False): [2], ("features", False): [16, 2], ("out", True): [8]}


def test_instructions_without_a_line_belong_to_who_has_none() -> None:
    code = read_amdgcn(AMDGCN.replace("kernels.py:11:5", "kernels.py:0:5"))
    assert code.accesses[0].lines == ()
    by_argument = accesses_by_argument(sites(TTIR), code)
    assert [[one.width for one in ones] for _, ones in by_argument["features", False]] == [[16], [2]]
