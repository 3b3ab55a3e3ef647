// Package shap says what each feature contributes to a margin: SHAP values, as XGBoost's pred_contribs, LightGBM's
// pred_contrib and the path-dependent TreeExplainer of the package shap define them for trees.
//
//	shap.go         the explainer: rows in blocks, a tree after the other, threads
//	plan.go         a forest as passes go through it; grow.go lays its trees out
//	pass.go         a pass of a tree over 8 rows, in Go; engine/asm/shap has it in assembly, with the same bits
//	quadrature.go   the points and weights of a pass
//
// # What is worked out
//
// Let v(S) be what a tree gives on average when only the features in S are known: at a split by one of them the row
// goes its way, at every other split both ways, in the ratio of the children's covers. The contribution of a feature
// is its Shapley value in this game, the mean over all orders of the features of how much v changes when the feature
// becomes known. All contributions and v of no feature, which is the last number of an output, add up to the margin.
//
// # How
//
// A leaf with the value w gives w times a product over the features of its path: o for a known feature, which is 1
// when the row meets all that the path asks of it and else 0, and z for an unknown one, which is the product of the
// ratios of the covers. The weights of the Shapley value are integrals of powers of t and 1-t from 0 to 1, and so the
// contribution of feature i is
//
//	w ∫ (o_i - z_i) Π (z_j + (o_j - z_j) t) dt    over the other features j
//
// The integrand is a polynomial of a degree one below the number d of features on the path: the rule of Gauss and
// Legendre with d/2 points gives the integral exactly. At a point t the products are factors of steps down the tree,
// so that all leaves share the work of their common path:
//
//   - going down, C is the product of the factors above a node, times the weight of the point;
//   - going up, T is the sum over the leaves below a node of w times the factors below it.
//
// For a split with the ratios z of its children, and the child h to which the row goes, let A = Σ z T(child) and
// E = T(h) - A. Then T = A + t E, the split's feature gets Σ C E over the points, and a child begins with
// C z (1-t), and C t more if the row goes there.
//
// When the path has asked for the feature before, what counts is both together. Let z' be the ratio that the steps of
// this feature up to here have left, and g = z'(1-t) + t the factor that is in C for them. If the row has met them, the
// split's own factors are those above with τ = t/g in the place of t, and the feature gets κ = z'/g² times as much: the
// difference to what it got further up. If the row has not, nothing depends on this split any more: τ = κ = 0. A
// feature that is new has z' = 1, which gives τ = t and κ = 1. Nothing is divided by a number near 0,
// since g is at least t, and the points lie inside of 0 and 1.
//
// A pass takes up to 8 points, and trees with more than 16 features on a path several passes, so that what is needed
// beside the plan is bounded by the depth of the trees. All of it is float64, multiplied and added in one rounding where
// the package's formulas say so (FMA), on every processor. XGBoost works in float32, LightGBM and shap in float64: their
// contributions differ from these by their own rounding.
package shap
