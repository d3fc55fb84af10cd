"""Answers for operators. Rule: everything returned is a frozen value; nothing is printed here."""
